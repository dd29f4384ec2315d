//! The first parameter is the transaction.

use retry_runtime::{Error, Transaction, transactional};
use tokio_postgres::Client;

#[transactional]
async fn ping(client: &mut Client) -> Result<(), Error> {
    Ok(client.batch_execute("SELECT 1").await?)
}

#[transactional]
async fn save(accounts: &[i64], tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0 WHERE id = ANY($1)", &[&accounts]).await?;
    Ok(())
}

#[transactional]
async fn ping_shared(client: &Client) -> Result<(), Error> {
    Ok(client.batch_execute("SELECT 1").await?)
}

fn main() {}
