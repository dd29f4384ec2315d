use retry_runtime::{Error, Transaction, transactional};

#[transactional(deadlock_retries = 0, retry_if = |_| true)]
async fn touch(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
