//! The result cannot borrow from the transaction's elided lifetime.

use retry_runtime::{Error, Transaction, Watched, transactional};
use tokio_postgres::RowStream;

#[transactional]
async fn names(tx: &Transaction<'_>) -> Result<Watched<'_, RowStream>, Error> {
    Ok(tx.query_raw("SELECT name FROM accounts", [0_i64; 0]).await?)
}

fn main() {}
