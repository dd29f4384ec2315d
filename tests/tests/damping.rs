//! `damping`: after deadlocks that cost more than concurrency gains, a function's calls on a pool run one at a time for a
//! while.
#![allow(missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bb8_postgres::PostgresConnectionManager as Manager;
use futures_util::future::join_all;
use futures_util::join;
use retry_runtime::{Error, Pool, Reconnect, Transaction, WithCancel, transactional};
use retry_tests::calls::Concurrency;
use retry_tests::events::{Events, Fields};
use retry_tests::{Database, connect};
use tokio::sync::Barrier;
use tokio::time::timeout;
use tokio_postgres::NoTls;

const SOON: Duration = Duration::from_secs(20);

async fn database() -> Database {
    let db = Database::create().await;
    db.accounts(8, 100).await;
    db
}

/// A pool of up to ten connections to a server that takes a second to find a deadlock.
fn pool(db: &Database) -> deadpool_postgres::Pool {
    let mut config = db.config().clone();
    config.options("-c deadlock_timeout=1s");
    retry_tests::pool(&config, 10)
}

macro_rules! lock_both {
    ($($name:ident $(, $option:meta)*;)*) => {$(
        /// Locks its rows in this order. If there is a barrier, waits before the second until the other call has locked its
        /// first.
        #[transactional($($option),*)]
        async fn $name(
            tx: &mut Transaction<'_>,
            [first, second]: [i64; 2],
            bodies: &Concurrency,
            barrier: Option<&Barrier>,
        ) -> Result<(), Error> {
            bodies.enter();
            let sql = "UPDATE accounts SET cents = cents + 1 WHERE id = $1";
            tx.execute(sql, &[&first]).await?;
            if let (Some(barrier), 1) = (barrier, tx.attempt()) {
                barrier.wait().await;
            }
            let locked = tx.execute(sql, &[&second]).await;
            bodies.leave();
            locked?;
            Ok(())
        }
    )*};
}

lock_both! {
    lock_both;
    without_damping, damping = "off";
}

/// Makes two calls that both lock their first row before either locks its second.
macro_rules! call_both {
    ($function:ident($one:expr, $two:expr), $rows:expr, $others:expr) => {{
        let (bodies, barrier) = (Concurrency::default(), Barrier::new(2));
        let calls = async {
            join!($function($one, $rows, &bodies, Some(&barrier)), $function($two, $others, &bodies, Some(&barrier)))
        };
        let (one, two) = timeout(SOON, calls).await.expect("stuck");
        one.unwrap();
        two.unwrap();
    }};
}

/// Makes calls run one at a time, by a deadlock during which no call commits. Returns for how long.
async fn provoke_damping(pool: &deadpool_postgres::Pool) -> Duration {
    let events = Events::capture();
    call_both!(lock_both(pool, pool), [1, 2], [2, 1]);
    let [event] = &events.of("running calls one at a time")[..] else { panic!("{events:?}") };
    assert_eq!((&*event["level"], &*event["sqlstate"]), ("WARN", "40P01"));
    Duration::from_millis(event["time_ms"].parse().unwrap())
}

/// No option asks for this.
#[tokio::test]
async fn after_a_costly_deadlock_calls_run_one_at_a_time_for_a_while() {
    let db = database().await;
    let pool = pool(&db);
    loop {
        let time = provoke_damping(&pool).await;
        let (began, bodies) = (Instant::now(), Concurrency::default());
        let calls = (0..20).map(|n| lock_both(&pool, [n % 2 + 1, 2 - n % 2], &bodies, None));
        timeout(SOON, join_all(calls)).await.expect("stuck").into_iter().for_each(Result::unwrap);
        // On a slow machine the time may have passed, which proves nothing. The next time is twice as long.
        if began.elapsed() < time / 2 {
            assert_eq!(bodies.most(), 1);
            break;
        }
        tokio::time::sleep(time).await;
    }
    // The call that runs waits in its body for one that waits for its turn. The wait ends with that time.
    call_both!(lock_both(&pool, &pool), [3, 4], [5, 6]);
}

/// Another pool may lead to another database.
#[tokio::test]
async fn calls_on_another_pool_still_run_concurrently() {
    let db = database().await;
    let (pool, other) = (pool(&db), pool(&db));
    for _ in 0..4 {
        let time = provoke_damping(&pool).await;
        let began = Instant::now();
        call_both!(lock_both(&other, &other), [3, 4], [5, 6]);
        // On a slow machine the time may have passed, which proves nothing.
        if began.elapsed() < time / 2 {
            return;
        }
        tokio::time::sleep(time).await;
    }
    panic!("calls on the other pool waited");
}

#[tokio::test]
async fn calls_without_damping_and_calls_on_clients_stay_concurrent() {
    let db = database().await;
    let pool = pool(&db);
    let events = Events::capture();
    call_both!(without_damping(&pool, &pool), [1, 2], [2, 1]);
    // Clients have no pool, and may be connected to different servers.
    let mut config = db.config().clone();
    config.options("-c deadlock_timeout=1s");
    let (mut one, mut two) = (connect(&config).await, connect(&config).await);
    call_both!(lock_both(&mut one, &mut two), [1, 2], [2, 1]);
    // Each pair has met, and so has deadlocked. Both of its calls may be victims.
    for function in ["damping::without_damping", "damping::lock_both"] {
        assert!(events.of("retrying").iter().any(|event| event["function"] == function), "{events:?}");
    }
    assert_eq!(events.of("running calls one at a time").len(), 0, "{events:?}");
}

#[tokio::test]
async fn clones_of_a_pool_have_its_id() {
    let db = database().await;
    let (pool, other) = (db.pool(1), db.pool(1));
    assert_ne!(pool.id(), other.id());
    let with_cancel = WithCancel::new(pool.clone(), db.config().clone(), NoTls);
    for id in [pool.clone().id(), Pool::id(&&pool), Arc::new(pool.clone()).id(), with_cancel.clone().id()] {
        assert_eq!(id, pool.id());
    }
    let build = || bb8::Pool::builder().build_unchecked(Manager::new(db.config().clone(), NoTls));
    let (pool, other) = (build(), build());
    assert_eq!(pool.id(), pool.clone().id());
    assert_ne!(pool.id(), other.id());
    let reconnect = || Reconnect::new(|| async { unreachable!("nothing connects") });
    let (source, other) = (reconnect(), reconnect());
    assert_eq!(source.id(), source.clone().id());
    assert_ne!(source.id(), other.id());
}

/// Sleeps, or locks as above.
#[transactional]
async fn sleep_or_lock(tx: &mut Transaction<'_>, rows: Option<[i64; 2]>, barrier: &Barrier) -> Result<(), Error> {
    let sql = "UPDATE accounts SET cents = cents + 1 WHERE id = $1";
    let Some([first, second]) = rows else { return Ok(tx.batch_execute("SELECT pg_sleep(0.05)").await?) };
    tx.execute(sql, &[&first]).await?;
    if tx.attempt() == 1 {
        barrier.wait().await;
    }
    tx.execute(sql, &[&second]).await?;
    Ok(())
}

/// Eight calls at the same time commit more than they could one after another.
#[tokio::test]
async fn a_deadlock_while_other_calls_commit_changes_nothing() {
    let db = database().await;
    let (pool, barrier) = (pool(&db), Barrier::new(2));
    sleep_or_lock(&pool, None, &barrier).await.unwrap();
    let events = Events::capture();
    let locks =
        async { join!(sleep_or_lock(&pool, Some([1, 2]), &barrier), sleep_or_lock(&pool, Some([2, 1]), &barrier)) };
    let sleeps = join_all((0..8).map(|_| async {
        loop {
            sleep_or_lock(&pool, None, &barrier).await.unwrap();
        }
    }));
    tokio::select! {
        (one, two) = locks => {
            one.unwrap();
            two.unwrap();
        }
        _ = sleeps => {}
        () = tokio::time::sleep(SOON) => panic!("stuck"),
    }
    assert_eq!(events.of("retrying")[0]["class"], "deadlock");
    assert_eq!(events.of("running calls one at a time").len(), 0, "{events:?}");
}

/// Locks its rows once all calls have locked their first. The server looks for a deadlock soon only if the call `finds` it.
#[transactional]
async fn lock_late(
    tx: &mut Transaction<'_>,
    [first, second]: [i64; 2],
    finds: bool,
    barrier: &Barrier,
) -> Result<u32, Error> {
    let sql = "UPDATE accounts SET cents = cents + 1 WHERE id = $1";
    if finds && tx.attempt() == 1 {
        tx.batch_execute("SET LOCAL deadlock_timeout = '300ms'").await?;
    }
    tx.execute(sql, &[&first]).await?;
    if tx.attempt() == 1 {
        barrier.wait().await;
    }
    tx.execute(sql, &[&second]).await?;
    Ok(tx.attempt())
}

/// Makes two pairs of calls that deadlock. The server looks for the deadlock of the first pair soon. Returns their attempts.
async fn lock_in_two_circles(pool: &impl Pool) -> [u32; 4] {
    let barrier = Barrier::new(4);
    let (one, two, three, four) = join!(
        lock_late(pool, [1, 2], true, &barrier),
        lock_late(pool, [2, 1], false, &barrier),
        lock_late(pool, [3, 4], false, &barrier),
        lock_late(pool, [4, 3], false, &barrier),
    );
    [one, two, three, four].map(Result::unwrap)
}

#[transactional]
async fn sleep(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    tx.batch_execute("SELECT pg_sleep(0.6)").await?;
    Ok(tx.attempt())
}

#[tokio::test]
async fn attempts_that_began_before_are_cancelled_if_they_can_be() {
    let db = database().await;
    let mut config = db.config().clone();
    config.options("-c deadlock_timeout=1h");
    let pool = WithCancel::new(retry_tests::pool(&config, 10), config.clone(), NoTls);
    let events = Events::capture();
    let calls = async { join!(lock_in_two_circles(&pool), sleep(&pool)) };
    let (attempts, other) = timeout(SOON, calls).await.expect("the server finds no second deadlock");
    assert!(attempts[0] == 2 && attempts[2].max(attempts[3]) > 1, "{attempts:?}");
    assert_eq!(other.unwrap(), 1, "a call of another function is not cancelled");
    let cancelled = |event: &&Fields| event["class"] == "deadlock" && event["sqlstate"] == "57014";
    assert!(events.of("retrying").iter().any(|event| cancelled(&event)), "{events:?}");
    for _ in 0..20 {
        assert_eq!(lock_late(&pool, [1, 2], false, &Barrier::new(1)).await.unwrap(), 1, "no cancel is late");
    }
    assert_eq!(db.value::<i64>("SELECT sum(cents)::bigint FROM accounts").await, 800 + 8 + 40);
}

/// The requests do not reach the server. It may still receive one that was sent, so those sessions are not used again.
#[tokio::test]
async fn if_the_cancel_fails_the_session_is_discarded() {
    let db = database().await;
    let mut config = db.config().clone();
    config.options("-c deadlock_timeout=2s");
    let mut nowhere = tokio_postgres::Config::new();
    nowhere.host("127.0.0.1").port(1);
    let pool = WithCancel::new(retry_tests::pool(&config, 10), nowhere, NoTls);
    let events = Events::capture();
    timeout(SOON, lock_in_two_circles(&pool)).await.expect("the server finds both deadlocks");
    assert!(events.of("connection discarded").len() >= 2, "{events:?}");
    assert_eq!(db.value::<i64>("SELECT sum(cents)::bigint FROM accounts").await, 800 + 8);
}
