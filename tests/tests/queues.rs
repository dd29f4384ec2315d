//! `queue_by` and `escalate_after`: calls of a function that queue for each other within this process.
#![allow(missing_docs)]

use std::sync::Mutex;
use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::future::join_all;
use futures_util::{FutureExt, join, poll};
use retry_runtime::{BoxFuture, Error, Phase, Transaction, transactional};
use retry_tests::Database;
use retry_tests::calls::Concurrency;
use retry_tests::events::Events;
use retry_tests::rival::Rival;
use tokio::sync::{Barrier, Notify};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

async fn database() -> Database {
    let db = Database::create().await;
    db.accounts(8, 100).await;
    db
}

/// The bodies that ran, in order, and how many ran at the same time.
#[derive(Default)]
struct Log {
    entries: Mutex<Vec<String>>,
    bodies: Concurrency,
}

impl Log {
    fn note(&self, entry: impl Into<String>) {
        self.entries.lock().unwrap().push(entry.into());
    }

    fn entries(&self) -> Vec<String> {
        self.entries.lock().unwrap().clone()
    }
}

/// Fails with a serialization failure.
async fn conflict(tx: &Transaction<'_>, rival: &Rival) -> Result<(), Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 8", &[]).await?;
    rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 8").await;
    tx.execute("UPDATE accounts SET cents = cents WHERE id = 8", &[]).await?;
    Ok(())
}

#[transactional(queue_by = [from, to])]
async fn transfer(tx: &mut Transaction<'_>, from: i64, to: i64) -> Result<u32, Error> {
    for (id, cents) in [(from, -1_i64), (to, 1)] {
        tx.execute("UPDATE accounts SET cents = cents + $1 WHERE id = $2", &[&cents, &id]).await?;
        tokio::task::yield_now().await;
    }
    Ok(tx.attempt())
}

/// Calls lock rows in every order, but do not deadlock. Neither do the queues themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_with_a_key_in_common_never_conflict() {
    let db = database().await;
    let pool = db.pool(16);
    let calls = (0..300_i64).map(|n| transfer(&pool, n % 4 + 1, (n + n / 4 % 3 + 1) % 4 + 1));
    let attempts = timeout(SOON, join_all(calls)).await.expect("the queues are stuck");
    assert!(attempts.into_iter().all(|attempt| attempt.unwrap() == 1));
    assert_eq!(db.value::<i64>("SELECT sum(cents)::bigint FROM accounts").await, 800);
}

#[transactional(queue_by = key)]
async fn meet(tx: &mut Transaction<'_>, key: &str, barrier: &Barrier) -> Result<(), Error> {
    tx.batch_execute("SELECT 1").await?;
    barrier.wait().await;
    Ok(())
}

#[tokio::test]
async fn calls_with_different_keys_run_concurrently() {
    let db = database().await;
    let (pool, barrier) = (db.pool(2), Barrier::new(2));
    let both = async { join!(meet(&pool, "one", &barrier), meet(&pool, "two", &barrier)) };
    let (one, two) = timeout(SOON, both).await.expect("they wait for each other");
    one.unwrap();
    two.unwrap();
}

#[transactional(queue_by = key)]
async fn meet_by_number(tx: &mut Transaction<'_>, key: i64, barrier: &Barrier) -> Result<(), Error> {
    tx.batch_execute("SELECT 1").await?;
    barrier.wait().await;
    Ok(())
}

/// However many keys there are, each has its own queue.
#[tokio::test]
async fn different_keys_never_share_a_queue() {
    let db = database().await;
    let (pool, barrier) = (db.pool(2), Barrier::new(2));
    // Each call waits in its body for the other, so they must not share a queue.
    let both = async { join!(meet_by_number(&pool, 1, &barrier), meet_by_number(&pool, 135, &barrier)) };
    let (one, two) = timeout(SOON, both).await.expect("they wait for each other");
    one.unwrap();
    two.unwrap();

    let all_taken = join!(pool.get(), pool.get());
    let mut calls: Vec<_> = (0..2_000).map(|key| Box::pin(meet_by_number(&pool, key, &barrier))).collect();
    for call in &mut calls {
        assert!(poll!(call).is_pending());
        // Tokio makes a task yield after a number of locks.
        tokio::task::yield_now().await;
    }
    assert_eq!(pool.status().waiting, 2_000, "each has its turn, and waits only for a connection");
    drop(all_taken);
}

#[transactional(queue_by = (), isolation = "repeatable read", deadline = "10s")]
async fn in_turn(tx: &mut Transaction<'_>, name: &str, log: &Log, gate: Option<&Notify>) -> Result<(), Error> {
    log.note(name);
    log.bodies.enter();
    tx.batch_execute("SELECT 1").await?;
    if let Some(gate) = gate {
        gate.notified().await;
    }
    log.bodies.leave();
    Ok(())
}

#[tokio::test]
async fn queued_calls_run_in_the_order_of_their_arrival_and_hold_no_connection() {
    let db = database().await;
    let (pool, log, gate) = (db.pool(3), Log::default(), Notify::new());
    let mut first = Box::pin(in_turn(&pool, "first", &log, Some(&gate)));
    assert!(timeout(Duration::from_millis(100), &mut first).await.is_err(), "it waits in its body");
    let mut others: Vec<_> = ["b", "c", "dropped", "d"].map(|name| Box::pin(in_turn(&pool, name, &log, None))).into();
    for call in &mut others {
        assert!(poll!(call).is_pending());
    }
    drop(others.remove(2));
    assert_eq!(pool.status().size, 1, "a queued call has taken no connection");
    gate.notify_one();
    let rest = timeout(SOON, async { join!(first, join_all(others)) }).await.expect("a queued call never ran");
    rest.1.into_iter().chain([rest.0]).for_each(Result::unwrap);
    assert_eq!(log.entries(), ["first", "b", "c", "d"]);
    assert_eq!(log.bodies.most(), 1);
}

/// Two pools may lead to two databases, so their keys are separate. Clients share queues, because their databases are not
/// compared.
#[tokio::test]
async fn each_pool_has_its_own_queues_and_all_clients_share_theirs() {
    let db = database().await;
    let (pool, other, barrier) = (db.pool(1), db.pool(1), Barrier::new(2));
    let both = async { join!(meet(&pool, "one", &barrier), meet(&other, "one", &barrier)) };
    let (one, two) = timeout(SOON, both).await.expect("they wait for each other");
    one.unwrap();
    two.unwrap();

    let (mut client, mut another) = (db.client().await, db.client().await);
    let (log, gate) = (Log::default(), Notify::new());
    let mut first = Box::pin(in_turn(&mut client, "first", &log, Some(&gate)));
    while log.entries().is_empty() {
        assert!((&mut first).now_or_never().is_none());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let second = in_turn(&mut another, "second", &log, None);
    gate.notify_one();
    let (first, second) = timeout(SOON, async { join!(first, second) }).await.expect("a queued call never ran");
    first.unwrap();
    second.unwrap();
    assert_eq!(log.bodies.most(), 1);
}

#[transactional(queue_by = (), deadline = "100ms")]
async fn impatient(tx: &mut Transaction<'_>, gate: &Notify) -> Result<(), Error> {
    tx.batch_execute("SELECT 1").await?;
    gate.notified().await;
    Ok(())
}

#[tokio::test]
async fn the_time_in_a_queue_counts_towards_the_deadline() {
    let db = database().await;
    let (pool, gate) = (db.pool(2), Notify::new());
    let mut first = Box::pin(impatient(&pool, &gate));
    assert!(poll!(&mut first).is_pending());
    // While the first call is not polled, it keeps its turn, even past its own deadline.
    let second = timeout(SOON, impatient(&pool, &gate)).await.expect("the wait does not end");
    assert!(matches!(second, Err(Error::DeadlineExceeded { phase: Phase::Queue, .. })), "{second:?}");
    drop(first);
    gate.notify_one();
    impatient(&pool, &gate).await.unwrap();
}

#[transactional(queue_by = depth > 9, escalate_after = 1, deadline = "10s")]
async fn nested(tx: &mut Transaction<'_>, depth: u32) -> Result<u32, Error> {
    if depth == 0 { Ok(tx.attempt()) } else { Box::pin(nested(&mut *tx, depth - 1)).await }
}

#[tokio::test]
async fn a_nested_call_does_not_queue() {
    let db = database().await;
    assert_eq!(nested(&db.pool(1), 3).await.unwrap(), 1);
}

#[transactional(queue_by = (), isolation = "repeatable read", deadline = "10s")]
async fn stay(tx: &mut Transaction<'_>, name: &str, log: &Log, rival: Option<&Rival>) -> Result<(), Error> {
    log.note(format!("{name}{}", tx.attempt()));
    match rival {
        Some(rival) if tx.attempt() < 3 => conflict(tx, rival).await,
        _ => Ok(()),
    }
}

#[tokio::test]
async fn a_call_keeps_its_turn_while_it_retries() {
    let db = database().await;
    let (pool, log, rival) = (db.pool(2), Log::default(), Rival::connect(&db).await);
    let (a, b) = join!(stay(&pool, "a", &log, Some(&rival)), stay(&pool, "b", &log, None));
    a.unwrap();
    b.unwrap();
    assert_eq!(log.entries(), ["a1", "a2", "a3", "b1"]);
}

#[transactional(queue_by = (), isolation = "repeatable read", deadline = "10s")]
async fn hooked(tx: &mut Transaction<'_>, pool: &Pool, rival: Option<&Rival>) -> Result<u32, Error> {
    if let Some(rival) = rival {
        tx.on_commit(hooked_again(pool.clone()));
        tx.on_rollback(hooked_again(pool.clone()));
        if tx.attempt() == 1 {
            conflict(tx, rival).await?;
        }
    }
    Ok(tx.attempt())
}

fn hooked_again(pool: Pool) -> BoxFuture<'static, ()> {
    Box::pin(async move { assert_eq!(hooked(&pool, &pool, None).await.unwrap(), 1) })
}

#[tokio::test]
async fn hooks_run_after_the_queue_is_left() {
    let db = database().await;
    let (pool, rival) = (db.pool(1), Rival::connect(&db).await);
    assert_eq!(hooked(&pool, &pool, Some(&rival)).await.unwrap(), 2);
}

#[transactional(escalate_after = 2, deadlock_retries = 100, isolation = "serializable")]
async fn contend(tx: &mut Transaction<'_>, bodies: &Concurrency) -> Result<u32, Error> {
    let alone = tx.attempt() > 2;
    if alone {
        bodies.enter();
    }
    let result = async {
        let cents: i64 = tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?.get(0);
        tx.execute("UPDATE accounts SET cents = $1 WHERE id = 1", &[&(cents + 1)]).await
    };
    let result = result.await;
    if alone {
        bodies.leave();
    }
    result?;
    Ok(tx.attempt())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn escalated_calls_run_one_at_a_time() {
    let db = database().await;
    let (pool, bodies) = (db.pool(16), Concurrency::default());
    let attempts = timeout(SOON, join_all((0..200).map(|_| contend(&pool, &bodies)))).await.expect("stuck");
    let most = attempts.into_iter().map(Result::unwrap).max();
    assert!(most > Some(2), "no call has escalated: {most:?}");
    assert_eq!(bodies.most(), 1);
    assert_eq!(db.cents(1).await, 300);
}

/// Its delays are long, so that a call that sleeps shows.
#[transactional(
    escalate_after = 1,
    isolation = "repeatable read",
    base_delay = "200ms",
    max_delay = "10s",
    jitter = "none"
)]
async fn escalate(tx: &mut Transaction<'_>, name: &str, log: &Log, rival: &Rival, end: u32) -> Result<(), Error> {
    log.note(format!("{name}{}", tx.attempt()));
    match tx.attempt() {
        1 | 2 if tx.attempt() < end => conflict(tx, rival).await,
        3 if tx.attempt() < end => {
            tx.batch_execute("SELECT pg_terminate_backend(pg_backend_pid())").await?;
            Ok(())
        }
        _ => Ok(()),
    }
}

#[tokio::test]
async fn an_escalated_call_keeps_its_turn_and_does_not_sleep() {
    let db = database().await;
    let (pool, log, rival) = (db.pool(1), Log::default(), Rival::connect(&db).await);
    let events = Events::capture();
    let call = async { join!(escalate(&pool, "a", &log, &rival, 3), escalate(&pool, "b", &log, &rival, 2)) };
    let (a, b) = timeout(SOON, call).await.expect("stuck");
    a.unwrap();
    b.unwrap();
    assert!(events.of("retrying").iter().all(|event| event["delay_us"] == "0"), "{events:?}");
    let entries = log.entries();
    let at = |entry: &str| entries.iter().position(|other| other == entry);
    assert_eq!(at("a3"), at("a2").map(|a2| a2 + 1), "no other call ran in between: {entries:?}");
}

/// A closed connection makes it sleep. Other calls do not wait for that.
#[tokio::test]
async fn an_escalated_call_that_sleeps_lets_others_run() {
    let db = database().await;
    let (pool, log, rival) = (db.pool(2), Log::default(), Rival::connect(&db).await);
    let mut a = Box::pin(escalate(&pool, "a", &log, &rival, 4));
    while log.entries().last().is_none_or(|entry| entry != "a3") {
        assert!((&mut a).now_or_never().is_none());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (a, b) = timeout(SOON, async { join!(a, escalate(&pool, "b", &log, &rival, 2)) }).await.expect("stuck");
    a.unwrap();
    b.unwrap();
    assert_eq!(log.entries(), ["a1", "a2", "a3", "b1", "b2", "a4"]);
}
