//! `WithBreaker`: when the circuit opens, whom it refuses, and how it closes.
#![allow(missing_docs)]

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use retry_runtime::{
    BoxFuture, Class, Error, Phase, Pool, PoolError, Protection, Session, Transaction, WithBreaker, WithCancel,
    classify, transactional,
};
use retry_tests::calls::dropped_after;
use retry_tests::events::Events;
use retry_tests::proxy::{Cut, Fault, Proxy};
use retry_tests::rival::{Rival, pid, terminate};
use retry_tests::{Database, Server, connect, pool};
use tokio::sync::Notify;
use tokio_postgres::{Client, Config, NoTls};

const OPEN_FOR: Duration = Duration::from_secs(5);

/// Counts the requests for a connection.
struct Counted<P> {
    pool: P,
    gets: Arc<AtomicUsize>,
}

impl<P: Pool> Counted<P> {
    fn new(pool: P) -> Self {
        Self { pool, gets: Arc::default() }
    }
}

impl<P: Pool> Pool for Counted<P> {
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.pool.get()
    }

    fn id(&self) -> usize {
        self.pool.id()
    }

    fn protection(&self) -> Protection<'_> {
        self.pool.protection()
    }
}

/// Lets time pass. No call may be waiting for anything but time.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[transactional(retries = 0, name = "one")]
async fn one(tx: &mut Transaction<'_>) -> Result<i32, Error> {
    Ok(tx.query_one("SELECT 1", &[]).await?.get(0))
}

/// Its connection is closed in every attempt.
#[transactional(retries = 0)]
async fn cut(tx: &mut Transaction<'_>, observer: &Client) -> Result<(), Error> {
    terminate(observer, pid(tx).await).await;
    tx.execute("SELECT 1", &[]).await?;
    Ok(())
}

/// Opens the circuit with closed connections.
async fn open(pool: &impl Pool, observer: &Client) {
    for _ in 0..20 {
        match cut(pool, observer).await.unwrap_err() {
            Error::CircuitOpen { .. } => return,
            error => assert_eq!(error.class(), Class::Connection, "{error:?}"),
        }
    }
    panic!("it does not open");
}

async fn assert_open(pool: &impl Pool) {
    let error = one(pool).await.unwrap_err();
    assert!(matches!(error, Error::CircuitOpen { source: None, .. }), "{error:?}");
}

/// A pool that no server answers.
fn unreachable() -> deadpool_postgres::Pool {
    let mut config = Config::new();
    config.host_path("/nonexistent").user("postgres");
    pool(&config, 1)
}

async fn fail(pool: &impl Pool, times: u32) {
    for _ in 0..times {
        let error = one(pool).await.unwrap_err();
        assert_eq!(error.class(), Class::Connection, "{error:?}");
    }
}

#[tokio::test]
async fn an_outage_opens_the_circuit_and_its_end_closes_it() {
    let server = Server::start().unwrap();
    let db = Database::create_on(&server.config()).await;
    let counted = Counted::new(db.pool(1));
    let gets = counted.gets.clone();
    let pool = Arc::new(counted);
    let (first, id) = (WithBreaker::new(pool.clone()), pool.id().to_string());
    let clone = first.clone();
    let events = Events::capture();
    one(&first).await.unwrap();
    pass(2 * OPEN_FOR).await;
    server.stop("fast").unwrap();
    fail(&first, 3).await;
    fail(&clone, 1).await;
    assert_eq!(events.of("circuit opened").len(), 0, "four results say nothing");
    fail(&clone, 1).await;
    let opened = events.of("circuit opened");
    assert_eq!((opened[0]["level"].as_str(), &opened[0]["pool"]), ("INFO", &id));
    let before = gets.load(Ordering::SeqCst);
    for pool in [&first, &clone] {
        let error = one(pool).await.unwrap_err();
        let Error::CircuitOpen { retry_after, source: None, .. } = error else { panic!("{error:?}") };
        assert!(retry_after <= OPEN_FOR && !retry_after.is_zero(), "{retry_after:?}");
        assert_eq!((error.class(), error.history()), (Class::Capacity, None));
        assert!(error.to_string().starts_with("the circuit of the pool is open for another "), "{error}");
    }
    assert_eq!(gets.load(Ordering::SeqCst), before, "no connection was asked for");
    let refused = events.of("circuit open");
    assert_eq!(refused.len(), 2);
    assert_eq!((refused[0]["level"].as_str(), refused[0]["function"].as_str()), ("WARN", "one"));

    pass(OPEN_FOR).await;
    fail(&clone, 1).await;
    assert_open(&first).await;
    server.start_again(&[]).unwrap();
    pass(OPEN_FOR).await;
    assert_eq!(one(&first).await.unwrap(), 1);
    assert_eq!(one(&clone).await.unwrap(), 1);
    let closed = events.of("circuit closed");
    assert_eq!((closed.len(), closed[0]["level"].as_str(), &closed[0]["pool"]), (1, "INFO", &id));
    assert_eq!(events.of("circuit opened").len(), 2);
}

#[transactional(isolation = "repeatable read", deadlock_retries = 0)]
async fn conflict(tx: &mut Transaction<'_>, rival: &Rival) -> Result<(), Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    Ok(())
}

#[transactional]
async fn violate(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("INSERT INTO accounts VALUES (1, 0)", &[]).await?;
    Ok(())
}

#[transactional(retries = 0)]
async fn ask(tx: &mut Transaction<'_>, other: &Config) -> anyhow::Result<()> {
    tx.execute("SELECT 1", &[]).await?;
    drop(other.connect(NoTls).await?);
    Ok(())
}

#[tokio::test]
async fn the_servers_answers_count_as_successes() {
    let db = Database::create().await;
    db.accounts(1, 100).await;
    let (rival, observer, pool) = (Rival::connect(&db).await, db.client().await, WithBreaker::new(db.pool(1)));
    // All results are of one second, however slow the machine is.
    tokio::time::pause();
    for _ in 0..3 {
        assert_eq!(conflict(&pool, &rival).await.unwrap_err().class(), Class::Serialization);
        assert_eq!(violate(&pool).await.unwrap_err().class(), Class::Fatal);
    }
    for _ in 0..6 {
        assert_eq!(one(&pool).await.unwrap(), 1, "neither six failures of twelve, nor fewer");
        cut(&pool, &observer).await.unwrap_err();
    }
    assert_eq!(one(&pool).await.unwrap(), 1);
    for _ in 0..7 {
        cut(&pool, &observer).await.unwrap_err();
    }
    assert_open(&pool).await;
}

#[tokio::test]
async fn what_says_nothing_of_the_server_does_not_count() {
    let db = Database::create().await;
    let (observer, deadpool) = (db.client().await, db.pool(2));
    let pool = WithBreaker::new(deadpool.clone());
    for _ in 0..4 {
        cut(&pool, &observer).await.unwrap_err();
    }
    let mut elsewhere = Config::new();
    elsewhere.host_path("/nonexistent").user("postgres");
    for _ in 0..6 {
        assert!(dropped_after(one(&pool), 1).now_or_never().is_none());
        let error = ask(&pool, &elsewhere).await.unwrap_err();
        assert_eq!(classify(error.as_ref()), Some(Class::Connection), "{error:?}");
        assert_exceeded(wait(&pool).await, Phase::Body);
    }
    deadpool.close();
    for _ in 0..6 {
        assert_eq!(one(&pool).await.unwrap_err().class(), Class::Fatal);
    }
}

#[transactional(deadline = "300ms")]
async fn wait(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("SELECT 1", &[]).await?;
    std::future::pending().await
}

#[transactional(deadline = "300ms")]
async fn wait_for_the_server(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("SELECT pg_sleep(1)").await?;
    Ok(())
}

#[track_caller]
fn assert_exceeded(result: Result<(), Error>, expected: Phase) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { phase, .. } if phase == expected), "{error:?}");
}

#[tokio::test]
async fn a_deadline_counts_if_the_server_did_not_answer_or_no_connection_was_free() {
    let db = Database::create().await;
    let pool = WithBreaker::new(db.pool(5));
    for _ in 0..5 {
        assert_exceeded(wait_for_the_server(&pool).await, Phase::Body);
    }
    assert_open(&pool).await;
    let deadpool = db.pool(1);
    let pool = WithBreaker::new(deadpool.clone());
    let held = deadpool.get().await.unwrap();
    for _ in 0..5 {
        assert_exceeded(wait(&pool).await, Phase::Pool);
    }
    drop(held);
    assert_open(&pool).await;
}

#[tokio::test]
async fn an_unknown_commit_counts() {
    let db = Database::create().await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    let pool = WithBreaker::new(pool(proxy.config(), 1));
    for _ in 0..5 {
        proxy.arm(Fault { text: "COMMIT", request: usize::MAX, reply: 0, cut: Cut::Close });
        let error = one(&pool).await.unwrap_err();
        assert!(error.is_unknown(), "{error:?}");
    }
    assert_open(&pool).await;
}

/// Waits in its body, after a nested call, until it is told to go on.
#[transactional(retries = 0)]
async fn hold(tx: &mut Transaction<'_>, entered: &Notify, leave: &Notify) -> Result<i32, Error> {
    let value = one(&mut *tx).await?;
    entered.notify_one();
    leave.notified().await;
    Ok(value)
}

#[tokio::test]
async fn one_trial_at_a_time_decides_and_leaves_its_place_if_it_does_not() {
    let db = Database::create().await;
    let (observer, pool) = (db.client().await, WithBreaker::new(db.pool(3)));
    let (entered, leave) = (Notify::new(), Notify::new());
    open(&pool, &observer).await;
    pass(OPEN_FOR).await;
    let trial = async { hold(&pool, &entered, &leave).await.unwrap() };
    let others = async {
        entered.notified().await;
        for _ in 0..3 {
            assert_open(&pool).await;
        }
        // A single connection is not concerned.
        let mut client = db.client().await;
        assert_eq!(one(&mut client).await.unwrap(), 1);
        leave.notify_one();
    };
    tokio::join!(trial, others);
    assert_eq!(one(&pool).await.unwrap(), 1, "the trial has closed the circuit");

    open(&pool, &observer).await;
    pass(OPEN_FOR).await;
    {
        let mut trial = std::pin::pin!(hold(&pool, &entered, &leave));
        tokio::select! {
            _ = &mut trial => panic!("it waits"),
            () = entered.notified() => {}
        }
        assert_open(&pool).await;
        // It never ends.
        pass(OPEN_FOR).await;
        let mut second = std::pin::pin!(hold(&pool, &entered, &leave));
        tokio::select! {
            _ = &mut second => panic!("it waits"),
            () = entered.notified() => {}
        }
        assert_open(&pool).await;
    }
    assert_exceeded(wait(&pool).await, Phase::Body);
    let panicked = AssertUnwindSafe(panic(&pool)).catch_unwind().await;
    panicked.unwrap_err();
    assert_eq!(one(&pool).await.unwrap(), 1, "each trial without a result has left its place");
}

#[transactional]
async fn panic(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("SELECT 1", &[]).await?;
    panic!("on purpose")
}

#[tokio::test]
async fn a_trial_dropped_at_any_await_leaves_its_place() {
    let db = Database::create().await;
    let observer = db.client().await;
    for polls in 0.. {
        let pool = WithBreaker::new(db.pool(1));
        open(&pool, &observer).await;
        pass(OPEN_FOR).await;
        let done = dropped_after(one(&pool), polls).await;
        assert_eq!(one(&pool).await.unwrap(), 1, "after {polls} polls");
        assert_eq!(db.open_transactions().await, 0, "after {polls} polls");
        if done {
            assert!(polls > 3, "{polls}");
            break;
        }
    }
}

#[transactional(retries = 10, base_delay = "1ms", max_delay = "2ms")]
async fn cut_and_retried(tx: &mut Transaction<'_>, observer: &Client) -> Result<(), Error> {
    terminate(observer, pid(tx).await).await;
    tx.execute("SELECT 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_call_is_not_retried_once_the_circuit_is_open() {
    let db = Database::create().await;
    let (observer, pool) = (db.client().await, WithBreaker::new(db.pool(1)));
    let events = Events::capture();
    let error = cut_and_retried(&pool, &observer).await.unwrap_err();
    assert_eq!(error.class(), Class::Connection);
    let giving_up = events.of("giving up");
    assert_eq!((giving_up.len(), giving_up[0]["attempt"].as_str()), (1, "5"));
    assert_eq!((giving_up[0]["reason"].as_str(), giving_up[0]["class"].as_str()), ("circuit open", "connection"));
    assert_open(&pool).await;
}

#[transactional(isolation = "repeatable read", base_delay = "2s", max_delay = "2s", jitter = "none")]
async fn conflict_and_sleep(tx: &mut Transaction<'_>, rival: &Rival) -> Result<(), Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_retry_is_refused_if_the_circuit_opens_while_the_call_sleeps() {
    let db = Database::create().await;
    db.accounts(1, 100).await;
    let (rival, observer, pool) = (Rival::connect(&db).await, db.client().await, WithBreaker::new(db.pool(1)));
    let events = Events::capture();
    let others = async {
        while events.of("retrying").is_empty() {
            tokio::task::yield_now().await;
        }
        open(&pool, &observer).await;
        pass(Duration::from_secs(2)).await;
    };
    let (result, ()) = tokio::join!(conflict_and_sleep(&pool, &rival), others);
    let error = result.unwrap_err();
    assert!(matches!(error, Error::CircuitOpen { source: Some(_), .. }), "{error:?}");
    assert_eq!(error.class(), Class::Capacity);
    assert_eq!(error.as_db_error().unwrap().code().code(), "40001");
    assert_eq!(error.history().unwrap().failures().collect::<Vec<_>>(), [("serialization", 1)]);
}

#[tokio::test]
async fn layers_nest_in_any_order_and_references_pass_it_on() {
    let db = Database::create().await;
    let cancel = |pool| WithCancel::new(pool, db.config().clone(), NoTls);
    let within = WithBreaker::new(cancel(unreachable()));
    fail(&within, 5).await;
    assert_open(&within).await;
    let around = WithCancel::new(WithBreaker::new(unreachable()), db.config().clone(), NoTls);
    fail(&around, 5).await;
    assert_open(&around).await;
    assert_open(&&around).await;
    let own: Box<dyn Pool> = Box::new(Counted::new(Arc::new(around)));
    assert_open(&own).await;
}

#[tokio::test]
async fn each_layer_has_a_circuit_of_its_own_and_runtimes_share_it() {
    let pool = WithBreaker::new(unreachable()).open_for(Duration::from_secs(3600));
    let elsewhere = pool.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(fail(&elsewhere, 5));
    });
    thread.join().unwrap();
    pass(OPEN_FOR).await;
    assert_open(&pool).await;
    fail(&WithBreaker::new(unreachable()), 1).await;
    let mut client = connect(Database::create().await.config()).await;
    assert_eq!(one(&mut client).await.unwrap(), 1);
}
