//! A nested call moves the reference that it is passed; `&mut *tx` keeps `tx`.

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn ping(tx: &Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

#[transactional]
async fn twice(tx: &mut Transaction<'_>) -> Result<(), Error> {
    ping(tx).await?;
    ping(tx).await
}

fn main() {}
