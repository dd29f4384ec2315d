use retry_runtime::{Error, Transaction, transactional};

#[transactional(lock_timeout = "999us", statement_timeout = "2147483648ms")]
async fn touch(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
