//! Smoke.
#![allow(missing_docs)]

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;

#[transactional]
async fn smoke(tx: &mut Transaction<'_>, id: i64) -> Result<i64, Error> {
    Ok(tx.query_one("SELECT cents FROM accounts WHERE id = $1", &[&id]).await?.get(0))
}

#[tokio::test]
async fn smokes() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    let pool = db.pool(1);
    assert_eq!(smoke(&pool, 1).await.unwrap(), 100);
    let mut client = db.client().await;
    assert_eq!(smoke(&mut client, 1).await.unwrap(), 100);
}
