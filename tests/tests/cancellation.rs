//! Cancellation: a call dropped at any await leaves no transaction open. `dropped.rs` has the tests of the clean-up.
#![allow(missing_docs)]

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use retry_tests::calls::dropped_after;

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
        // The next borrower is outside any transaction, and its commit does not commit the dropped call's writes.
        let seen = total(&pool).await.unwrap();
        outcomes.push(seen);
        assert!(seen == 300 || seen == 0, "all or nothing: {seen} after {polls} polls");
        assert_eq!(db.open_transactions().await, 0, "after {polls} polls");
        if done {
            break;
        }
    }
    assert!(outcomes.len() > 8, "BEGIN, three times PARSE and EXECUTE, COMMIT: {outcomes:?}");
    assert_eq!(outcomes[..4], [300; 4], "COMMIT was not sent yet: {outcomes:?}");
    assert_eq!(outcomes.last(), Some(&0), "the last call was not dropped");
}

#[tokio::test]
async fn a_call_dropped_half_way_on_a_client_is_rolled_back_before_the_next_statement() {
    let db = Database::create().await;
    db.accounts(3, 100).await;
    let mut client = db.client().await;
    for polls in 1..5 {
        assert!(!dropped_after(three_steps(&mut client), polls).await);
        assert_eq!(total(&mut client).await.unwrap(), 300);
        assert_eq!(db.open_transactions().await, 0);
    }
}
