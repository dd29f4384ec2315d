use retry_runtime::{Error, Transaction, transactional};

#[transactional(base_delay = "fast", deadline = "")]
async fn touch(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
