//! The body is in both twins. Each error in it is reported once.

use retry_runtime::{Error, Transaction, transactional};

#[transactional(source = pool, within = balance_within)]
async fn balance(tx: &mut Transaction<'_>, pool: &deadpool_postgres::Pool, name: String) -> Result<i64, Error> {
    let cents: i64 = "none";
    let kept = name;
    tx.commit().await?;
    undeclared(pool);
    Ok(cents)
}

fn main() {}
