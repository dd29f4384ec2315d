use retry_runtime::{Error, Transaction, transactional};

#[transactional(READ_ONLY, lockTimeout = "5ms")]
async fn touch(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
