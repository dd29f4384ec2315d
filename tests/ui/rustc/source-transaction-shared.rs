//! A nested call needs its transaction by `&mut`.

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn ping(tx: &Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

#[transactional]
async fn pong(tx: &Transaction<'_>) -> Result<(), Error> {
    ping(tx).await
}

fn main() {}
