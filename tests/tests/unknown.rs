//! Promise 3: once a commit's outcome is unknown, any later failure of the call is returned as `CommitUnknown`.
#![allow(missing_docs)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use retry_runtime::{Class, Error, Pool, Reconnect, Transaction, classify, transactional};
use retry_tests::events::Events;
use retry_tests::proxy::{Cut, Fault, Proxy, redirect};
use retry_tests::{Database, pool};
use tokio_postgres::NoTls;

const COMMIT_ARRIVES: Fault = Fault { text: "COMMIT", request: usize::MAX, reply: 0, cut: Cut::Reset };

async fn setup() -> (Database, Proxy) {
    let db = Database::create().await;
    db.setup(
        "CREATE TABLE ledger (id int); CREATE TABLE slow (id int);
         CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER nap AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION nap()",
    )
    .await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    (db, proxy)
}

/// The number of committed rows.
async fn committed(db: &Database) -> i64 {
    db.value("SELECT count(*) FROM ledger").await
}

#[track_caller]
fn assert_unknown(error: &(dyn std::error::Error + 'static)) {
    let unknown = error.downcast_ref::<Error>();
    assert!(matches!(unknown, Some(Error::CommitUnknown { identity: None, .. })), "{error:?}");
    assert_eq!(classify(error), Some(Class::CommitUnknown));
}

macro_rules! write {
    ($($name:ident, $table:literal $(, $option:meta)*;)*) => {$(
        #[transactional(unknown_commit = "retry", base_delay = "250us", max_delay = "1ms" $(, $option)*)]
        async fn $name(tx: &mut Transaction<'_>) -> Result<u32, Error> {
            tx.execute(concat!("INSERT INTO ", $table, " VALUES (1)"), &[]).await?;
            Ok(tx.attempt())
        }
    )*};
}

write! {
    write, "ledger";
    write_in_time, "ledger", deadline = "2s", retries = 1_000_000;
    write_slowly, "slow", deadline = "300ms";
}

#[tokio::test]
async fn a_commit_that_outlasts_the_deadline_is_unknown() {
    let (db, _proxy) = setup().await;
    let pool = db.pool(1);
    let events = Events::capture();
    let error = write_slowly(&pool).await.unwrap_err();
    assert_unknown(&error);
    let source = source(&error).map(|source| source.downcast_ref());
    assert!(matches!(source, None | Some(Some(Error::DeadlineExceeded { .. }))), "{error:?}");
    assert_eq!(events.of("commit outcome unknown").len(), 1, "{events:?}");
    drop(pool.get().await.unwrap());
    assert_eq!(db.value::<i64>("SELECT count(*) FROM slow").await, 1, "the transaction is committed");
}

/// The error received instead of a reply, or the failure of a later attempt.
fn source(error: &Error) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
    let Error::CommitUnknown { source, .. } = error else { panic!("{error:?}") };
    source.as_ref().map(|cause| &***cause)
}

/// Connects through the proxy once. After that, nothing listens.
fn once(db: &Database, proxy: &Proxy) -> impl Pool {
    let (first, refused) = (proxy.config().clone(), redirect(db.config(), 1));
    let is_first = AtomicBool::new(true);
    Reconnect::new(move || {
        let config = if is_first.swap(false, Ordering::Relaxed) { first.clone() } else { refused.clone() };
        async move {
            let (client, connection) = config.connect(NoTls).await?;
            tokio::spawn(connection);
            Ok(client)
        }
    })
}

#[tokio::test]
async fn an_unknown_outcome_stays_unknown_if_the_server_goes_down() {
    for in_time in [false, true] {
        let (db, proxy) = setup().await;
        let pool = once(&db, &proxy);
        proxy.arm(COMMIT_ARRIVES);
        let error = if in_time { write_in_time(&pool).await } else { write(&pool).await }.unwrap_err();
        assert_unknown(&error);
        let last = source(&error).and_then(|source| source.downcast_ref::<Error>());
        match last {
            Some(Error::Pool(_)) if !in_time => {}
            Some(Error::DeadlineExceeded { .. }) if in_time => {}
            _ => panic!("the last failure is the source: {error:?}"),
        }
        assert_eq!(committed(&db).await, 1);
    }
}

/// The body's own error.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("declined at the second attempt")]
    Declined,
    #[error(transparent)]
    Runtime(#[from] Error),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
}

/// The hooks that ran.
static HOOKS: Mutex<Vec<&str>> = Mutex::new(Vec::new());

#[transactional(unknown_commit = "retry")]
async fn decline_later(tx: &mut Transaction<'_>, sql: &str) -> Result<(), Refusal> {
    tx.on_commit(async { HOOKS.lock().unwrap().push("committed") });
    tx.on_rollback(async { HOOKS.lock().unwrap().push("rolled back") });
    if tx.attempt() > 1 {
        tx.execute(sql, &[]).await?;
        return Err(Refusal::Declined);
    }
    tx.execute("INSERT INTO ledger VALUES (1)", &[]).await?;
    Ok(())
}

#[transactional(unknown_commit = "retry")]
async fn decline_as_text(tx: &mut Transaction<'_>) -> Result<(), String> {
    if tx.attempt() > 1 {
        return Err("declined".to_owned());
    }
    tx.execute("INSERT INTO ledger VALUES (1)", &[]).await.map_err(|error| error.to_string())?;
    Ok(())
}

/// The body may decline because its own first attempt is committed. Rollback hooks must not run either.
#[tokio::test]
async fn an_unknown_outcome_stays_unknown_if_the_body_then_declines() {
    let (db, proxy) = setup().await;
    let pool = pool(proxy.config(), 1);
    for (sql, source) in [("SELECT 1", "declined at the second attempt"), ("SELECT 1 / 0", "division by zero")] {
        proxy.arm(COMMIT_ARRIVES);
        let Err(Refusal::Runtime(error)) = decline_later(&pool, sql).await else { panic!("not unknown") };
        assert_unknown(&error);
        assert!(error.to_string().contains(source), "{error}");
    }
    assert_eq!(committed(&db).await, 2);
    assert_eq!(HOOKS.lock().unwrap()[..], [""; 0]);
    proxy.arm(COMMIT_ARRIVES);
    let text = decline_as_text(&pool).await.unwrap_err();
    assert!(text.starts_with("the outcome of the commit is unknown, after 2 attempts in "), "{text}");
    assert!(text.ends_with(" (1x connection): declined"), "{text}");
}

/// Close to the longest possible duration. No calculation with it may overflow.
const FOREVER: Duration = Duration::from_secs(7_000_000_000_000_000_000);

#[transactional(unknown_commit = "resolve", deadline = FOREVER)]
async fn write_without_hurry(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    tx.execute("INSERT INTO ledger VALUES (1)", &[]).await?;
    Ok(tx.attempt())
}

#[transactional(unknown_commit = "resolve", deadline = "20s")]
async fn write_in_a_hurry(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    tx.execute("INSERT INTO ledger VALUES (1)", &[]).await?;
    Ok(tx.attempt())
}

/// The first call on a pool also asks for the session's own timeout, the second does not.
#[tokio::test]
async fn a_call_with_a_deadline_knows_its_transaction() {
    let (db, proxy) = setup().await;
    let pool = pool(proxy.config(), 1);
    for commits in 1..=2 {
        proxy.arm(COMMIT_ARRIVES);
        assert_eq!(write_in_a_hurry(&pool).await.unwrap(), 1);
        assert_eq!(committed(&db).await, commits);
    }
}

#[tokio::test]
async fn a_huge_deadline_does_not_overflow() {
    let (db, proxy) = setup().await;
    let pool = pool(proxy.config(), 1);
    assert_eq!(write_without_hurry(&pool).await.unwrap(), 1);
    proxy.arm(COMMIT_ARRIVES);
    assert_eq!(write_without_hurry(&pool).await.unwrap(), 1);
    assert_eq!(committed(&db).await, 2);
}
