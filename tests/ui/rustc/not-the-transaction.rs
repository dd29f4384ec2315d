//! The first parameter must be the transaction, and not a type that it dereferences to.

use retry_runtime::{Error, transactional};
use tokio_postgres::Client;

#[transactional]
async fn by_reference(client: &Client) -> Result<(), Error> {
    Ok(client.batch_execute("SELECT 1").await?)
}

#[transactional]
async fn by_mut(client: &mut Client) -> Result<(), Error> {
    Ok(client.batch_execute("SELECT 1").await?)
}

#[transactional]
async fn the_drivers(tx: &mut tokio_postgres::Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
