use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn main(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}
