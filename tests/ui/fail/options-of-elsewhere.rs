use retry_runtime::{Error, Transaction, transactional};

#[transactional(max_retries = 3, timeout = "1s", backoff = "5ms", isolation_level = "serializable", readonly)]
async fn touch(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
