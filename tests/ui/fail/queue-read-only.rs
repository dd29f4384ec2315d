use retry_runtime::{Error, Transaction, transactional};

#[transactional(read_only, queue_by = id, queue = "server")]
async fn touch(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
