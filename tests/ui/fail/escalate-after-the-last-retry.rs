use retry_runtime::{Error, Transaction, transactional};

#[transactional(deadlock_retries = 3, escalate_after = 5)]
async fn touch(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
