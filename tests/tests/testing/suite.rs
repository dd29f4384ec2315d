//! A small test suite that knows nothing of faults. Without `RETRY_FAULTS` all of its tests pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use retry_runtime::{Error, Transaction, install, transactional};
use retry_tests::Database;

#[transactional]
async fn transfer(tx: &mut Transaction<'_>, cents: i64) -> Result<u32, Error> {
    let add = "UPDATE accounts SET cents = cents + $1 WHERE id = $2";
    tx.execute(add, &[&-cents, &1_i64]).await?;
    tx.execute(add, &[&cents, &2_i64]).await?;
    Ok(tx.attempt())
}

#[transactional(retries = 0, deadlock_retries = 0)]
async fn transfer_once(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    transfer(&mut *tx, 10).await
}

#[transactional(read_only)]
async fn read(tx: &Transaction<'_>) -> Result<u32, Error> {
    tx.query_one("SELECT sum(cents) FROM accounts", &[]).await?;
    Ok(tx.attempt())
}

#[transactional(unknown_commit = "token")]
async fn transfer_with_token(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    transfer(&mut *tx, 10).await
}

/// Sends a mail in its body.
#[transactional]
async fn transfer_and_mail(tx: &mut Transaction<'_>, mails: &AtomicU32) -> Result<u32, Error> {
    mails.fetch_add(1, Ordering::Relaxed);
    transfer(&mut *tx, 10).await
}

/// Sends a mail after its commit.
#[transactional]
async fn transfer_then_mail(tx: &mut Transaction<'_>, mails: &Arc<AtomicU32>) -> Result<u32, Error> {
    let mails = mails.clone();
    tx.on_commit(async move {
        mails.fetch_add(1, Ordering::Relaxed);
    });
    transfer(&mut *tx, 10).await
}

/// Claims to be idempotent.
#[transactional(unknown_commit = "retry")]
async fn transfer_twice(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    transfer(&mut *tx, 10).await
}

async fn setup() -> Database {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    install(&db.client().await).await.unwrap();
    db
}

#[tokio::test]
async fn transfers_are_made() {
    let db = setup().await;
    println!("committed in attempt {}", transfer(&db.pool(1), 10).await.unwrap());
    println!("committed in attempt {}", transfer(&mut db.client().await, 10).await.unwrap());
    println!("read in attempt {}", read(&db.pool(1)).await.unwrap());
    assert_eq!((db.cents(1).await, db.cents(2).await), (80, 120));
}

#[tokio::test]
async fn a_transfer_without_retries_is_made() {
    let db = setup().await;
    println!("committed in attempt {}", transfer_once(&db.pool(1)).await.unwrap());
    assert_eq!(db.cents(2).await, 110);
}

#[tokio::test]
async fn a_transfer_with_a_token_is_made() {
    let db = setup().await;
    println!("committed in attempt {}", transfer_with_token(&db.pool(1)).await.unwrap());
    assert_eq!(db.cents(2).await, 110);
}

#[tokio::test]
async fn a_mail_is_sent() {
    let (db, mails) = (setup().await, AtomicU32::new(0));
    transfer_and_mail(&db.pool(1), &mails).await.unwrap();
    assert_eq!(mails.into_inner(), 1);
}

#[tokio::test]
async fn a_mail_is_sent_after_the_commit() {
    let (db, mails) = (setup().await, Arc::default());
    transfer_then_mail(&db.pool(1), &mails).await.unwrap();
    assert_eq!(mails.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_transfer_is_applied_once() {
    let db = setup().await;
    transfer_twice(&db.pool(1)).await.unwrap();
    assert_eq!(db.cents(2).await, 110);
}

#[tokio::test]
async fn many_transfers_are_made() {
    let db = setup().await;
    let pool = db.pool(1);
    for _ in 0..20 {
        println!("committed in attempt {}", transfer(&pool, 1).await.unwrap());
    }
    assert_eq!((db.cents(1).await, db.cents(2).await), (80, 120));
}
