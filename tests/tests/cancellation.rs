//! A call that is dropped, or whose task ends, leaves no transaction behind.
#![allow(missing_docs)]

use std::future::Future;
use std::pin::pin;

use futures_util::poll;
use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;

#[transactional]
async fn three_steps(tx: &mut Transaction<'_>) -> Result<(), Error> {
    for id in 1..=3_i64 {
        tx.execute("UPDATE accounts SET cents = 0 WHERE id = $1", &[&id]).await?;
    }
    Ok(())
}

#[transactional]
async fn total(tx: &mut Transaction<'_>) -> Result<i64, Error> {
    Ok(tx.query_one("SELECT sum(cents)::bigint FROM accounts", &[]).await?.get(0))
}

/// Polls a call `polls` times and drops it. `true`: it was done before.
async fn dropped_after<T>(call: impl Future<Output = T>, polls: u32) -> bool {
    let mut call = pin!(call);
    for _ in 0..polls {
        if poll!(call.as_mut()).is_ready() {
            return true;
        }
        // What was sent is answered in the meantime.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    false
}

#[tokio::test]
async fn a_call_dropped_at_any_await_leaves_no_transaction_open() {
    let db = Database::create().await;
    let mut outcomes = Vec::new();
    for polls in 0.. {
        db.setup("DROP TABLE IF EXISTS accounts").await;
        db.accounts(3, 100).await;
        let pool = db.pool(1);
        drop(pool.get().await.unwrap());
        let done = dropped_after(three_steps(&pool), polls).await;
        // The next borrower is outside of any transaction, and its own commit brings nothing else with it.
        let seen = total(&pool).await.unwrap();
        outcomes.push(seen);
        assert!(seen == 300 || seen == 0, "all or nothing: {seen} after {polls} polls");
        assert_eq!(db.open_transactions().await, 0, "after {polls} polls");
        if done {
            break;
        }
    }
    assert!(outcomes.len() > 8, "BEGIN, PARSE and EXECUTE thrice, COMMIT: {outcomes:?}");
    assert_eq!(outcomes[..4], [300; 4], "not even near its COMMIT: {outcomes:?}");
    assert_eq!(outcomes.last(), Some(&0), "the last one was let finish");
}

#[tokio::test]
async fn a_lone_client_dropped_half_way_rolls_back_at_once() {
    let db = Database::create().await;
    db.accounts(3, 100).await;
    let mut client = db.client().await;
    for polls in 1..5 {
        assert!(!dropped_after(three_steps(&mut client), polls).await);
        assert_eq!(total(&mut client).await.unwrap(), 300);
        assert_eq!(db.open_transactions().await, 0);
    }
}
