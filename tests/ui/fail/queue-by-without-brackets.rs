use retry_runtime::{Error, Transaction, transactional};

#[transactional(queue_by = from, to, read_only)]
async fn transfer(tx: &mut Transaction<'_>, from: i64, to: i64) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
