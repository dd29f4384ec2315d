//! A client runs one transaction at a time, so it is passed by `&mut`.

use retry_runtime::{Error, Transaction, transactional};
use tokio_postgres::Client;

#[transactional]
async fn ping(tx: &Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

async fn call(client: Client) -> Result<(), Error> {
    ping(&client).await
}

fn main() {}
