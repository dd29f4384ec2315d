//! Deadlocks that cost more than running at once gains: for a while, the function's calls on that pool go one at a time.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bb8_postgres::PostgresConnectionManager as Manager;
use futures_util::future::join_all;
use futures_util::join;
use retry_runtime::{Error, Pool, Reconnect, Transaction, WithCancel, transactional};
use retry_tests::events::Events;
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

/// How many bodies are running, and how many did at most.
#[derive(Default)]
struct Log {
    inside: AtomicU32,
    most: AtomicU32,
}

impl Log {
    fn enter(&self) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
    }

    fn most(&self) -> u32 {
        self.most.load(Ordering::SeqCst)
    }

    fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

macro_rules! lock_both {
    ($($name:ident $(, $option:meta)*;)*) => {$(
        /// Locks its rows in the order given, but where there is a barrier, the second not before the other call has
        /// locked its first.
        #[transactional($($option),*)]
        async fn $name(
            tx: &mut Transaction<'_>,
            [first, second]: [i64; 2],
            log: &Log,
            barrier: Option<&Barrier>,
        ) -> Result<(), Error> {
            log.enter();
            let sql = "UPDATE accounts SET cents = cents + 1 WHERE id = $1";
            tx.execute(sql, &[&first]).await?;
            if let (Some(barrier), 1) = (barrier, tx.attempt()) {
                barrier.wait().await;
            }
            let locked = tx.execute(sql, &[&second]).await;
            log.leave();
            locked?;
            Ok(())
        }
    )*};
}

lock_both! {
    lock_both;
    undamped, damping = "off";
}

/// Two calls, both of which are inside before either locks its second row.
macro_rules! at_once {
    ($function:ident($one:expr, $two:expr), $rows:expr, $others:expr) => {{
        let (log, barrier) = (Log::default(), Barrier::new(2));
        let calls = async {
            join!($function($one, $rows, &log, Some(&barrier)), $function($two, $others, &log, Some(&barrier)))
        };
        let (one, two) = timeout(SOON, calls).await.expect("stuck");
        one.unwrap();
        two.unwrap();
    }};
}

/// Shuts it with a deadlock in which nothing else is done, and says for how long.
async fn shut(pool: &deadpool_postgres::Pool) -> Duration {
    let events = Events::capture();
    at_once!(lock_both(pool, pool), [1, 2], [2, 1]);
    let [event] = &events.of("running calls one at a time")[..] else { panic!("{events:?}") };
    assert_eq!((&*event["level"], &*event["sqlstate"]), ("WARN", "40P01"));
    Duration::from_millis(event["time_ms"].parse().unwrap())
}

/// Nobody asked for it: after a deadlock in which nothing else was done, running calls one at a time for a while.
#[tokio::test]
async fn after_a_costly_deadlock_calls_go_one_at_a_time_for_a_while() {
    let db = database().await;
    let pool = pool(&db);
    loop {
        let shut = shut(&pool).await;
        let (began, log) = (Instant::now(), Log::default());
        let calls = (0..20).map(|n| lock_both(&pool, [n % 2 + 1, 2 - n % 2], &log, None));
        timeout(SOON, join_all(calls)).await.expect("stuck").into_iter().for_each(Result::unwrap);
        // On a machine so slow that they were at large again it says nothing; the next time lasts twice as long.
        if began.elapsed() < shut / 2 {
            assert_eq!(log.most(), 1);
            break;
        }
        tokio::time::sleep(shut).await;
    }
    // A call whose turn it is waits for one that waits for its turn: only so long.
    at_once!(lock_both(&pool, &pool), [3, 4], [5, 6]);
}

/// Two databases, say, with nothing in common but the function.
#[tokio::test]
async fn calls_on_another_pool_go_on_at_once() {
    let db = database().await;
    let (pool, other) = (pool(&db), pool(&db));
    for _ in 0..4 {
        let shut = shut(&pool).await;
        let began = Instant::now();
        at_once!(lock_both(&other, &other), [3, 4], [5, 6]);
        // Before it opens again; on a machine that is too slow for that it says nothing.
        if began.elapsed() < shut / 2 {
            return;
        }
        tokio::time::sleep(shut).await;
    }
    panic!("they waited");
}

#[tokio::test]
async fn calls_that_are_not_damped() {
    let db = database().await;
    let pool = pool(&db);
    let events = Events::capture();
    at_once!(undamped(&pool, &pool), [1, 2], [2, 1]);
    // Lone clients have no pool, and perhaps not even one server.
    let mut config = db.config().clone();
    config.options("-c deadlock_timeout=1s");
    let (mut one, mut two) = (connect(&config).await, connect(&config).await);
    at_once!(lock_both(&mut one, &mut two), [1, 2], [2, 1]);
    assert_eq!(events.of("retrying").len(), 2, "{events:?}");
    assert_eq!(events.of("running calls one at a time").len(), 0, "{events:?}");
}

#[tokio::test]
async fn clones_are_one_pool() {
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
    let source = || Reconnect::new(|| async { unreachable!("nothing connects") });
    let (source, other) = (source(), source());
    assert_eq!(source.id(), source.clone().id());
    assert_ne!(source.id(), other.id());
}

/// Naps, or locks as above.
#[transactional]
async fn nap_or_lock(tx: &mut Transaction<'_>, rows: Option<[i64; 2]>, barrier: &Barrier) -> Result<(), Error> {
    let sql = "UPDATE accounts SET cents = cents + 1 WHERE id = $1";
    let Some([first, second]) = rows else { return Ok(tx.batch_execute("SELECT pg_sleep(0.05)").await?) };
    tx.execute(sql, &[&first]).await?;
    if tx.attempt() == 1 {
        barrier.wait().await;
    }
    tx.execute(sql, &[&second]).await?;
    Ok(())
}

/// Eight calls at once do what one after the other could not.
#[tokio::test]
async fn a_deadlock_beside_which_others_go_on_changes_nothing() {
    let db = database().await;
    let (pool, barrier) = (pool(&db), Barrier::new(2));
    nap_or_lock(&pool, None, &barrier).await.unwrap();
    let events = Events::capture();
    let locks = async { join!(nap_or_lock(&pool, Some([1, 2]), &barrier), nap_or_lock(&pool, Some([2, 1]), &barrier)) };
    let naps = join_all((0..8).map(|_| async {
        loop {
            nap_or_lock(&pool, None, &barrier).await.unwrap();
        }
    }));
    tokio::select! {
        (one, two) = locks => {
            one.unwrap();
            two.unwrap();
        }
        _ = naps => {}
        () = tokio::time::sleep(SOON) => panic!("stuck"),
    }
    assert_eq!(events.of("retrying")[0]["class"], "deadlock");
    assert_eq!(events.of("running calls one at a time").len(), 0, "{events:?}");
}
