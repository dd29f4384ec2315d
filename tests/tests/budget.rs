//! `WithBudget`: which retries take a token, what adds one, and what happens without.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicU32, Ordering};

use retry_runtime::{Class, Error, Pool, Transaction, WithBreaker, WithBudget, WithCancel, transactional};
use retry_tests::Database;
use retry_tests::calls::dropped_after;
use retry_tests::events::Events;
use retry_tests::rival::{Rival, pid, terminate};
use tokio_postgres::{Client, NoTls};

/// A database, and functions that fail in every attempt and count their attempts.
struct Fixture {
    db: Database,
    rival: Rival,
    observer: Client,
    attempts: AtomicU32,
}

#[transactional(retries = 100, base_delay = "250us", max_delay = "250us")]
async fn cut(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), Error> {
    fixture.attempts.store(tx.attempt(), Ordering::Relaxed);
    terminate(&fixture.observer, pid(tx).await).await;
    tx.execute("SELECT 1", &[]).await?;
    Ok(())
}

#[transactional(retries = 0, retry_for = "60s", base_delay = "250us", max_delay = "250us")]
async fn cut_for_a_time(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), Error> {
    fixture.attempts.store(tx.attempt(), Ordering::Relaxed);
    terminate(&fixture.observer, pid(tx).await).await;
    tx.execute("SELECT 1", &[]).await?;
    Ok(())
}

#[transactional(isolation = "repeatable read", deadlock_retries = 8, base_delay = "250us", max_delay = "250us")]
async fn conflict(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), Error> {
    fixture.attempts.store(tx.attempt(), Ordering::Relaxed);
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    fixture.rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    Ok(())
}

impl Fixture {
    async fn new() -> Self {
        let db = Database::create().await;
        db.accounts(1, 100).await;
        let (rival, observer) = (Rival::connect(&db).await, db.client().await);
        Self { db, rival, observer, attempts: AtomicU32::new(0) }
    }

    fn pool(&self) -> deadpool_postgres::Pool {
        self.db.pool(1)
    }

    /// The retries that a call made.
    fn retries(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed) - 1
    }

    /// How many retries a call makes whose connection is closed in every attempt.
    async fn after_a_cut(&self, pool: &impl Pool) -> u32 {
        assert_eq!(cut(pool, self).await.unwrap_err().class(), Class::Connection);
        self.retries()
    }

    /// How many retries a call makes that meets a conflict in every attempt.
    async fn after_a_conflict(&self, pool: &impl Pool) -> u32 {
        assert_eq!(conflict(pool, self).await.unwrap_err().class(), Class::Serialization);
        self.retries()
    }
}

#[transactional]
async fn one(tx: &mut Transaction<'_>) -> Result<i32, Error> {
    Ok(tx.query_one("SELECT 1", &[]).await?.get(0))
}

async fn commit(pool: &impl Pool, times: u32) {
    for _ in 0..times {
        one(pool).await.unwrap();
    }
}

#[tokio::test]
async fn conflicts_and_other_failures_have_tokens_of_their_own_and_commits_add_to_both() {
    let fixture = Fixture::new().await;
    let pool = WithBudget::new(fixture.pool());
    let clone = pool.clone();
    let events = Events::capture();
    assert_eq!(fixture.after_a_cut(&pool).await, 1, "the start");
    let giving_up = events.of("giving up");
    assert_eq!((giving_up.len(), giving_up[0]["level"].as_str()), (1, "WARN"));
    assert_eq!((giving_up[0]["reason"].as_str(), giving_up[0]["class"].as_str()), ("retry budget", "connection"));
    assert_eq!(giving_up[0]["attempt"], "2");
    assert_eq!(fixture.after_a_cut(&clone).await, 0, "clones share the tokens");
    cut_for_a_time(&pool, &fixture).await.unwrap_err();
    assert_eq!(fixture.retries(), 0, "`retry_for` needs tokens too");
    assert_eq!(fixture.after_a_conflict(&pool).await, 1, "conflicts have their own");
    assert_eq!(fixture.after_a_conflict(&clone).await, 0);

    commit(&pool, 9).await;
    assert_eq!(fixture.after_a_cut(&pool).await, 0, "nine tenths of a token");
    commit(&clone, 1).await;
    assert_eq!(fixture.after_a_cut(&pool).await, 1);
    assert_eq!(fixture.after_a_conflict(&pool).await, 1);
    commit(&pool, 60).await;
    assert_eq!(fixture.after_a_cut(&pool).await, 3, "the cap");
    assert_eq!(fixture.after_a_conflict(&pool).await, 3);
    assert_eq!(fixture.after_a_cut(&WithBudget::new(fixture.pool())).await, 1, "another pool has its own");
}

#[tokio::test]
async fn the_cap_can_be_set_and_without_a_budget_there_is_none() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.after_a_conflict(&WithBudget::new(fixture.pool()).cap(0)).await, 0);
    let pool = WithBudget::new(fixture.pool()).cap(5);
    commit(&pool, 60).await;
    assert_eq!(fixture.after_a_conflict(&pool).await, 5);
    assert_eq!(fixture.after_a_conflict(&fixture.pool()).await, 8, "`deadlock_retries`");
}

#[transactional]
async fn violate(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("INSERT INTO accounts VALUES (1, 0)", &[]).await?;
    Ok(())
}

#[transactional]
async fn nest(tx: &mut Transaction<'_>) -> Result<(), Error> {
    for _ in 0..10 {
        one(&mut *tx).await?;
    }
    Ok(())
}

#[transactional]
async fn stale(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    if tx.attempt() == 1 {
        tx.batch_execute("EXECUTE no_such_statement").await?;
    }
    Ok(tx.attempt())
}

#[tokio::test]
async fn only_commits_on_the_pool_add_and_only_counted_retries_take() {
    let fixture = Fixture::new().await;
    let pool = WithBudget::new(fixture.pool());
    assert_eq!(fixture.after_a_cut(&pool).await, 1);
    assert_eq!(fixture.after_a_conflict(&pool).await, 1);
    for _ in 0..10 {
        assert_eq!(violate(&pool).await.unwrap_err().class(), Class::Fatal);
    }
    nest(&pool).await.unwrap();
    assert_eq!(stale(&pool).await.unwrap(), 2, "retried once, outside of the budgets");
    let mut client = fixture.db.client().await;
    for _ in 0..10 {
        one(&mut client).await.unwrap();
    }
    assert_eq!(fixture.after_a_cut(&pool).await, 0);
    conflict(&mut client, &fixture).await.unwrap_err();
    assert_eq!(fixture.retries(), 8, "a single connection is not concerned");
    commit(&pool, 7).await;
    assert_eq!(fixture.after_a_cut(&pool).await, 0, "two commits before, and seven");
    commit(&pool, 1).await;
    assert_eq!(fixture.after_a_cut(&pool).await, 1);
}

#[tokio::test]
async fn a_dropped_call_takes_no_token_and_no_connection() {
    let fixture = Fixture::new().await;
    let pool = WithBreaker::new(WithBudget::new(fixture.pool()).cap(1));
    for polls in 0.. {
        if dropped_after(violate(&pool), polls).await {
            assert!(polls > 3, "{polls}");
            break;
        }
        assert_eq!(one(&pool).await.unwrap(), 1, "after {polls} polls");
        assert_eq!(fixture.db.open_transactions().await, 0, "after {polls} polls");
    }
    assert_eq!(fixture.after_a_cut(&pool).await, 1);
    assert_eq!(fixture.after_a_conflict(&pool).await, 1);
}

#[tokio::test]
async fn layers_nest_in_any_order() {
    let fixture = Fixture::new().await;
    let config = fixture.db.config();
    let inside = WithCancel::new(WithBreaker::new(WithBudget::new(fixture.pool())), config.clone(), NoTls);
    let outside = WithBudget::new(WithBreaker::new(WithCancel::new(fixture.pool(), config.clone(), NoTls)));
    let boxed: [Box<dyn Pool>; 2] = [Box::new(inside), Box::new(outside)];
    for pool in boxed {
        assert_eq!(fixture.after_a_cut(&pool).await, 1);
        for _ in 0..3 {
            assert_eq!(fixture.after_a_cut(&pool).await, 0);
        }
        let error = one(&pool).await.unwrap_err();
        assert!(matches!(error, Error::CircuitOpen { .. }), "five connections were closed: {error:?}");
    }
}
