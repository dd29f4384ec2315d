use retry_runtime::{Error, Transaction, transactional};

#[transactional(queue_by = id, queue = "database")]
async fn touch(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
