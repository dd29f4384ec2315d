//! A pool is passed by reference.

use deadpool_postgres::Pool;
use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn ping(tx: &Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

async fn call(pool: Pool) -> Result<(), Error> {
    ping(pool).await
}

fn main() {}
