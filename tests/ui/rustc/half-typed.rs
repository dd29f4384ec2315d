//! In a half-typed body, rustc reports only what is missing there.

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn dangling(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.
}

#[transactional(retries = )]
async fn with_a_half_typed_option(tx: &mut Transaction<'_>, id: i64) -> Result<i64, Error> {
    let next = id + ;
    Ok(next)
}

async fn call(pool: &deadpool_postgres::Pool) -> Result<i64, Error> {
    dangling(pool).await?;
    with_a_half_typed_option(pool, 1).await
}

fn main() {}
