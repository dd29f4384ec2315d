//! Promises 1, 5 and 6: a nested call that is dropped at any point is not committed, and its `on_commit` does not run.
#![allow(missing_docs)]

use std::future::Future;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::poll;
use retry_runtime::{Error, PoolError, Transaction, transactional};
use retry_tests::events::Events;
use retry_tests::rival::Cancels;
use retry_tests::{Database, Server};
use tokio_postgres::Client;

/// The nested calls whose hooks ran, and whether the last nested body has returned.
#[derive(Default)]
struct Log {
    hooks: Mutex<Vec<(i32, i32)>>,
    has_returned: AtomicBool,
}

/// What a nested call does before its body returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Succeed,
    Fail,
    /// As `Fail`, but the rollback to its savepoint fails too.
    ReleaseTheSavepoint,
}

const HOWS: [How; 3] = [How::Succeed, How::Fail, How::ReleaseTheSavepoint];

#[transactional]
async fn inner(tx: &mut Transaction<'_>, call: i32, how: How, log: &'static Log) -> Result<(), Error> {
    let attempt = i32::try_from(tx.attempt()).expect("few attempts");
    tx.on_commit(async move { log.hooks.lock().unwrap().push((call, attempt)) });
    tx.execute("INSERT INTO ran VALUES ($1, $2, 'inner')", &[&call, &attempt]).await?;
    if how == How::ReleaseTheSavepoint {
        tx.batch_execute("RELEASE transactional_1").await?;
    }
    log.has_returned.store(true, Ordering::Relaxed);
    if how == How::Succeed { Ok(()) } else { Err(Error::Pool(PoolError::closed("not a failure of the server"))) }
}

/// Polls a nested call until `stop` returns true, and drops it. Returns its result if it completed before.
async fn dropped_when<T>(call: impl Future<Output = T>, mut stop: impl FnMut(u32) -> bool) -> Option<T> {
    let mut call = pin!(call);
    for polls in 0.. {
        if stop(polls) {
            return None;
        }
        if let std::task::Poll::Ready(result) = poll!(call.as_mut()) {
            return Some(result);
        }
        // In most cases the server replies in the meantime.
        if polls % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    unreachable!("the loop has no end")
}

/// Drops its nested call in the first attempt, after this many polls. `None`: after its last message was sent.
#[transactional(retries = 100)]
async fn outer(
    tx: &mut Transaction<'_>,
    call: i32,
    how: How,
    polls: Option<u32>,
    log: &'static Log,
) -> Result<(i32, bool), Error> {
    let attempt = i32::try_from(tx.attempt()).expect("few attempts");
    tx.execute("INSERT INTO ran VALUES ($1, $2, 'outer')", &[&call, &attempt]).await?;
    log.has_returned.store(false, Ordering::Relaxed);
    let how = if attempt == 1 { how } else { How::Succeed };
    let stop = |polled| match polls {
        _ if attempt > 1 => false,
        Some(polls) => polled >= polls,
        None => log.has_returned.load(Ordering::Relaxed),
    };
    let end = dropped_when(inner(&mut *tx, call, how, log), stop).await;
    Ok((attempt, end.is_some_and(|result| result.is_ok())))
}

async fn rows(observer: &Client, call: i32, step: &str) -> Vec<i32> {
    let sql = "SELECT attempt FROM ran WHERE call = $1 AND step = $2 ORDER BY attempt";
    observer.query(sql, &[&call, &step]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Checks that the result agrees with what was committed and with the hooks that ran.
async fn check(observer: &Client, call: i32, result: &Result<(i32, bool), Error>, log: &'static Log, case: &str) {
    let outer: Vec<i32> = result.iter().map(|(attempt, _)| *attempt).collect();
    let inner: Vec<i32> = result.iter().filter(|(_, done)| *done).map(|(attempt, _)| *attempt).collect();
    assert_eq!(rows(observer, call, "outer").await, outer, "{case}: {result:?}");
    assert_eq!(rows(observer, call, "inner").await, inner, "{case}: {result:?}");
    let hooks = std::mem::take(&mut *log.hooks.lock().unwrap());
    assert_eq!(hooks, inner.iter().map(|attempt| (call, *attempt)).collect::<Vec<_>>(), "{case}: {result:?}");
}

fn log() -> &'static Log {
    Box::leak(Box::default())
}

async fn database(server: &Server) -> Database {
    let db = Database::create_on(&server.config()).await;
    db.setup("CREATE TABLE ran (call int, attempt int, step text)").await;
    db
}

#[tokio::test]
async fn a_nested_call_dropped_while_its_savepoint_ends_is_not_committed() {
    let server = Server::start().unwrap();
    let (db, log) = (database(&server).await, log());
    let (pool, observer) = (db.pool(1), db.client().await);
    for (call, (how, attempts)) in
        [(How::Succeed, 2), (How::Fail, 1), (How::ReleaseTheSavepoint, 2)].into_iter().enumerate()
    {
        let (call, events) = (i32::try_from(call).unwrap(), Events::capture());
        let result = outer(&pool, call, how, None, log).await;
        assert_eq!(result.as_ref().unwrap(), &(attempts, attempts == 2), "{how:?}");
        check(&observer, call, &result, log, &format!("{how:?}")).await;
        let unseen = events.of("retrying").iter().filter(|event| event["class"] == "unseen").count();
        assert_eq!(unseen, usize::from(attempts == 2), "{how:?}: {events:?}");
    }
}

#[tokio::test]
async fn a_nested_call_can_be_dropped_at_every_poll() {
    let server = Server::start().unwrap();
    let (db, log) = (database(&server).await, log());
    let (pool, mut client, observer) = (db.pool(1), db.client().await, db.client().await);
    for call in 0..72 {
        let (polls, how) = (call / 6, HOWS[usize::try_from(call % 3).unwrap()]);
        let polls = u32::try_from(polls).unwrap();
        let result = if call % 2 == 0 {
            outer(&pool, call, how, Some(polls), log).await
        } else {
            outer(&mut client, call, how, Some(polls), log).await
        };
        // If it was not dropped, the runtime saw the rollback fail, which is final.
        let is_final = how == How::ReleaseTheSavepoint && matches!(result, Err(Error::Aborted { .. }));
        assert!(result.is_ok() || is_final, "{how:?} after {polls} polls: {result:?}");
        check(&observer, call, &result, log, &format!("{how:?} after {polls} polls")).await;
    }
}

/// The cancel requests hit statements of the body, SAVEPOINT, RELEASE, ROLLBACK TO and COMMIT.
#[tokio::test]
async fn results_stay_right_if_cancel_requests_hit_any_message() {
    let server = Server::start().unwrap();
    let (db, log) = (database(&server).await, log());
    let (mut client, observer) = (db.client().await, db.client().await);
    let mut failed = 0;
    let cancels = Cancels::start(client.cancel_token());
    for call in 0..400 {
        let (polls, how) = (u32::try_from(call / 3 % 12).unwrap(), HOWS[usize::try_from(call % 3).unwrap()]);
        let result = outer(&mut client, call, how, Some(polls), log).await;
        failed += i32::from(result.is_err());
        check(&observer, call, &result, log, &format!("{how:?} after {polls} polls")).await;
    }
    drop(cancels);
    assert!(failed > 0, "no cancel request made a call fail");
}
