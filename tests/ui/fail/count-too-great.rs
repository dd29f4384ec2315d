use retry_runtime::{Error, Transaction, transactional};

#[transactional(retries = 4_294_967_296, deadlock_retries = 3i64)]
async fn touch(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
