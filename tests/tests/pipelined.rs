//! `begin = "pipelined"`: BEGIN is sent together with the first statement. What happens if BEGIN fails.
#![allow(missing_docs)]

use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, TryStreamExt, try_join};
use retry_runtime::{Error, PoolError, Transaction, transactional};
use retry_tests::events::Events;
use retry_tests::proxy::{Cut, Fault, Proxy};
use retry_tests::rival::Cancels;
use retry_tests::{Database, Server, pool};
use tokio::time::timeout;
use tokio_postgres::{Client, Statement};

const SOON: Duration = Duration::from_secs(20);

/// Sends two statements at the same time. The second must wait for the reply to BEGIN. Asking for the identity makes BEGIN
/// take longer, so a cancel request hits it more often.
#[transactional(begin = "pipelined", unknown_commit = "resolve", retries = 100)]
async fn write_twice(tx: &mut Transaction<'_>, write: &Statement, call: i32) -> Result<i32, Error> {
    let attempt = i32::try_from(tx.attempt()).expect("few attempts");
    let tx = &*tx;
    let step = |step: &'static str| async move { tx.execute(write, &[&call, &attempt, &step]).await };
    try_join!(step("first"), step("second"))?;
    step("third").await?;
    Ok(attempt)
}

/// Sends one statement after another on the driver's own client, which the runtime does not watch.
#[transactional(begin = "pipelined", unknown_commit = "resolve", retries = 100)]
async fn write_unwatched(tx: &mut Transaction<'_>, write: &Statement, call: i32) -> Result<i32, Error> {
    let attempt = i32::try_from(tx.attempt()).expect("few attempts");
    for step in ["first", "second", "third"] {
        (**tx).execute(write, &[&call, &attempt, &step]).await?;
    }
    Ok(attempt)
}

async fn attempts_of(client: &Client, call: i32, step: &str) -> Vec<i32> {
    let sql = "SELECT attempt FROM ran WHERE call = $1 AND step = $2 ORDER BY attempt";
    client.query(sql, &[&call, &step]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The known hazard: a cancel request hits BEGIN, so the first statement runs outside the transaction. No other statement
/// does, and the call is retried.
#[tokio::test]
async fn no_statement_after_the_first_runs_if_begin_was_cancelled() {
    // Its own server, because the requests can keep other tests from connecting.
    let server = Server::start().unwrap();
    let db = Database::create_on(&server.config()).await;
    db.setup("CREATE TABLE ran (call int, attempt int, step text)").await;
    let (mut client, observer) = (db.client().await, db.client().await);
    let write = client.prepare("INSERT INTO ran VALUES ($1, $2, $3)").await.unwrap();
    let cancels = Cancels::start(client.cancel_token());
    // For each function: how many statements ran outside a transaction, and whether a retried call succeeded.
    let mut outside = [0, 0];
    let mut retried = [false, false];
    for call in 0.. {
        let events = Events::capture();
        let unwatched = call % 2 == 1;
        let result = if unwatched {
            timeout(SOON, write_unwatched(&mut client, &write, call)).await
        } else {
            timeout(SOON, write_twice(&mut client, &write, call)).await
        };
        let result = result.expect("the reply to BEGIN is not read");
        let all = events.of("retrying");
        let hits = all.iter().filter(|event| event["class"] == "begin_canceled").count();
        let committed: Vec<i32> = result.iter().copied().collect();
        assert_eq!(attempts_of(&observer, call, "second").await, committed, "{result:?} {events:?}");
        assert_eq!(attempts_of(&observer, call, "third").await, committed, "{result:?} {events:?}");
        let mut first = attempts_of(&observer, call, "first").await;
        first.retain(|attempt| !committed.contains(attempt));
        assert!(first.len() <= hits, "{result:?} {events:?}");
        outside[usize::from(unwatched)] += first.len();
        retried[usize::from(unwatched)] |= hits > 0 && result.is_ok();
        if outside.iter().all(|count| *count > 0) && retried == [true; 2] {
            break;
        }
    }
    drop(cancels);
}

#[transactional(begin = "pipelined")]
async fn add(tx: &mut Transaction<'_>, how: &str) -> Result<u32, Error> {
    let outer = &*tx;
    let add =
        |id: i64| async move { outer.execute("UPDATE accounts SET cents = cents + 1 WHERE id = $1", &[&id]).await };
    match how {
        "no statement" => {}
        "dropped without a reply" => assert!(add(1).now_or_never().is_none()),
        "dropped, then another" => {
            assert!(add(1).now_or_never().is_none());
            add(2).await?;
        }
        "nested dropped before its savepoint" => {
            assert!(add(1).now_or_never().is_none());
            assert!(Box::pin(add_nested(&mut *tx)).now_or_never().is_none());
            tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 2", &[]).await?;
        }
        "one" => drop(add(1).await?),
        "two at once" => drop(try_join!(add(1), add(2))?),
        "many wakers" => {
            let all: FuturesUnordered<_> = [1, 2, 1, 2].into_iter().map(add).collect();
            all.try_collect::<Vec<_>>().await?;
        }
        "nested" => return Box::pin(add_nested(tx)).await,
        "driver's client" => {
            (**tx).execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
        }
        "own error" => return Err(Error::Pool(PoolError::closed("not a failure of the server"))),
        _ => unreachable!("{how}"),
    }
    Ok(tx.attempt())
}

#[transactional]
async fn add_nested(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    add(&mut *tx, "two at once").await
}

#[tokio::test]
async fn all_kinds_of_bodies_run_inside_the_transaction() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    let pool = db.pool(1);
    let add = async |how| timeout(SOON, add(&pool, how)).await.expect("the reply to BEGIN is not read");
    let mut expected = (100, 100);
    for (how, one, two) in [
        ("no statement", 0, 0),
        ("one", 1, 0),
        ("two at once", 1, 1),
        ("many wakers", 2, 2),
        ("dropped, then another", 0, 1),
        ("nested dropped before its savepoint", 0, 1),
        ("nested", 1, 1),
        ("driver's client", 1, 0),
    ] {
        assert_eq!(add(how).await.unwrap(), 1, "{how}");
        expected = (expected.0 + one, expected.1 + two);
        assert_eq!((db.cents(1).await, db.cents(2).await), expected, "{how}");
    }
    assert!(matches!(add("own error").await, Err(Error::Pool(_))));
    assert_eq!(add("dropped without a reply").await.unwrap(), 1);
    assert_eq!(db.open_transactions().await, 0);
    assert_eq!(pool.status().available, 1);
}

/// What the open transaction wrote must not be committed with the call's own writes. The call is retried on the same
/// session, in its own transaction.
#[tokio::test]
async fn a_transaction_that_was_left_open_is_rolled_back_and_the_call_retried() {
    for left in ["BEGIN; UPDATE accounts SET cents = 0", "BEGIN; UPDATE accounts SET cents = 0; SELECT 1 / 0"] {
        let db = Database::create().await;
        db.accounts(2, 100).await;
        // The pool's other session is inside a transaction too. The second attempt must not get that one.
        let pool = db.pool(2);
        let [one, two] = [pool.get().await.unwrap(), pool.get().await.unwrap()];
        let _ = one.batch_execute(left).await;
        two.batch_execute("BEGIN; SELECT 1").await.unwrap();
        drop((one, two));
        let events = Events::capture();
        assert_eq!(add(&pool, "two at once").await.unwrap(), 2);
        assert_eq!(events.of("rolled back a transaction that was left open").len(), 1, "{events:?}");
        assert_eq!(events.of("retrying")[0]["class"], "left_open");
        assert_eq!((db.cents(1).await, db.cents(2).await), (101, 101));
        assert_eq!(db.open_transactions().await, 1, "the one of the other session");
    }
}

#[transactional(begin = "pipelined", unknown_commit = "resolve")]
async fn identified(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn an_error_of_begin_is_returned_to_the_caller() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    db.setup("DROP ROLE IF EXISTS visitor; CREATE ROLE visitor LOGIN; GRANT ALL ON accounts TO visitor").await;
    let mut config = db.config().clone();
    config.user("visitor");
    db.setup("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC").await;
    let error = identified(&pool(&config, 1)).await.unwrap_err();
    assert!(matches!(error, Error::ResolveUnsupported(_)), "{error:?}");
    assert_eq!(db.cents(1).await, 100);
    assert_eq!(db.open_transactions().await, 0);
    db.setup("REVOKE ALL ON accounts FROM visitor; DROP ROLE visitor").await;
}

#[tokio::test]
async fn a_connection_that_closes_at_begin_is_replaced() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    let pool = pool(proxy.config(), 1);
    for how in ["no statement", "two at once", "nested"] {
        proxy.arm(Fault { text: "BEGIN", request: 0, reply: 0, cut: Cut::Close });
        assert_eq!(add(&pool, how).await.unwrap(), 2, "{how}");
        assert!(!proxy.is_armed());
    }
    assert_eq!((db.cents(1).await, db.cents(2).await), (102, 102));
}
