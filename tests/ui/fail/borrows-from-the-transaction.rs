//! The result outlives the transaction, so it cannot borrow from it.

use retry_runtime::{Error, Transaction, Watched, transactional};
use tokio_postgres::RowStream;

#[transactional]
async fn names<'t>(tx: &'t mut Transaction<'_>) -> Result<Watched<'t, RowStream>, Error> {
    Ok(tx.query_raw("SELECT name FROM accounts", [0_i64; 0]).await?)
}

async fn call(pool: &deadpool_postgres::Pool) -> Result<(), Error> {
    names(pool).await.map(drop)
}

fn main() {}
