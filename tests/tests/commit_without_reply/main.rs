//! Promise 3: if COMMIT gets no reply, its outcome is looked up or reported as unknown, never guessed.
#![allow(missing_docs)]

mod crashes;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use retry_runtime::{Class, CommitOutcome, Error, Identity, Reconnect, Transaction, classify, install, transactional};
use retry_tests::events::Events;
use retry_tests::proxy::{Cut, Fault, Proxy};
use retry_tests::rival::{pid, wait_until};
use retry_tests::{Database, Server, connect, pool};
use tokio_postgres::{Config, NoTls};

const COMMIT_ARRIVES: Fault = Fault { text: "COMMIT", request: usize::MAX, reply: 0, cut: Cut::Reset };
const COMMIT_IS_CUT: Fault = Fault { text: "COMMIT", request: 9, reply: 0, cut: Cut::Reset };

const TABLES: &str = "CREATE TABLE ledger (id bigint, attempt int)";

async fn setup() -> (Database, Proxy) {
    let db = Database::create().await;
    db.setup(TABLES).await;
    install(&db.client().await).await.unwrap();
    let proxy = Proxy::start(db.config()).await.unwrap();
    (db, proxy)
}

async fn times(config: &Config, id: i64) -> i64 {
    let sql = "SELECT count(*) FROM ledger WHERE id = $1";
    connect(config).await.query_one(sql, &[&id]).await.unwrap().get(0)
}

macro_rules! write {
    ($($name:ident $(, $option:meta)*;)*) => {$(
        #[transactional(base_delay = "250us", max_delay = "1ms" $(, $option)*)]
        async fn $name(tx: &mut Transaction<'_>, id: i64) -> Result<u32, Error> {
            let attempt = i32::try_from(tx.attempt()).unwrap();
            tx.execute("INSERT INTO ledger VALUES ($1, $2)", &[&id, &attempt]).await?;
            Ok(tx.attempt())
        }
    )*};
}

write! {
    fail;
    retry, unknown_commit = "retry";
    resolved, unknown_commit = "resolve";
    by_token, unknown_commit = "token";
    resolved_in_time, unknown_commit = "resolve", deadline = "4s";
}

#[transactional(read_only)]
async fn read(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    tx.query("SELECT FROM ledger", &[]).await?;
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_commit_without_a_reply_is_reported_as_unknown() {
    let (db, proxy) = setup().await;
    let pool = pool(proxy.config(), 1);
    for (fault, committed) in [(COMMIT_ARRIVES, 1), (COMMIT_IS_CUT, 0)] {
        let events = Events::capture();
        proxy.arm(fault);
        let error = fail(&pool, committed).await.unwrap_err();
        assert!(matches!(error, Error::CommitUnknown { identity: None, source: Some(_), .. }), "{error:?}");
        assert_eq!(classify(&error), Some(Class::CommitUnknown));
        assert_eq!(times(db.config(), committed).await, committed);
        assert_eq!(events.of("commit outcome unknown").len(), 1, "{events:?}");
        assert_eq!(events.of("connection discarded").len(), 1, "{events:?}");
        assert_eq!(events.of("retrying").len(), 0, "{events:?}");
    }
}

#[tokio::test]
async fn a_body_that_may_be_committed_twice_is_retried() {
    let (db, proxy) = setup().await;
    let pool = pool(proxy.config(), 1);
    for (fault, times_committed) in [(COMMIT_ARRIVES, 2), (COMMIT_IS_CUT, 1)] {
        proxy.arm(fault);
        assert_eq!(retry(&pool, times_committed).await.unwrap(), 2);
        assert_eq!(times(db.config(), times_committed).await, times_committed);
    }
}

#[tokio::test]
async fn a_read_only_call_is_retried_if_its_commit_gets_no_reply() {
    let (_db, proxy) = setup().await;
    proxy.arm(COMMIT_ARRIVES);
    assert_eq!(read(&pool(proxy.config(), 1)).await.unwrap(), 2);
}

/// Cuts the connection at different bytes of the request and the reply, by closing and by reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_a_reply_is_looked_up_and_never_guessed() {
    let (db, proxy) = setup().await;
    let pool = pool(proxy.config(), 2);
    let mut id = 0;
    let mut without_a_reply = 0;
    for cut in [Cut::Close, Cut::Reset] {
        for (request, reply) in
            (0..=21).step_by(3).map(|request| (request, 0)).chain((0..50).step_by(7).map(|reply| (usize::MAX, reply)))
        {
            for token in [false, true] {
                id += 1;
                proxy.arm(Fault { text: "COMMIT", request, reply, cut });
                let attempts = if token { by_token(&pool, id).await } else { resolved(&pool, id).await }.unwrap();
                assert!(!proxy.is_armed(), "the fault happened");
                assert_eq!(times(db.config(), id).await, 1, "{request} {reply} {cut:?} by token: {token}");
                without_a_reply += i32::from(attempts == 1);
            }
        }
    }
    assert!(without_a_reply > 20, "committed without a reply: {without_a_reply}");
}

/// A schema for each tenant, with a table of the same name as the library's.
#[transactional(unknown_commit = "token", base_delay = "250us", max_delay = "1ms")]
async fn for_tenant(tx: &mut Transaction<'_>, id: i64) -> Result<u32, Error> {
    tx.batch_execute("SET LOCAL search_path = tenant, pg_catalog").await?;
    tx.execute("INSERT INTO public.ledger VALUES ($1, 1)", &[&id]).await?;
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_token_is_found_whatever_search_path_the_body_sets() {
    let (db, proxy) = setup().await;
    db.setup(
        "CREATE SCHEMA tenant;
         CREATE TABLE commits (LIKE transactional.commits INCLUDING ALL);
         CREATE TABLE tenant.commits (LIKE transactional.commits INCLUDING ALL)",
    )
    .await;
    let pool = pool(proxy.config(), 2);
    for (fault, attempts) in [(COMMIT_ARRIVES, 1), (COMMIT_IS_CUT, 2)] {
        proxy.arm(fault);
        let id = i64::from(attempts);
        assert_eq!(for_tenant(&pool, id).await.unwrap(), attempts);
        assert_eq!(times(db.config(), id).await, 1);
    }
}

#[tokio::test]
async fn a_schema_that_shadows_the_servers_types_and_operators_is_ignored() {
    let (db, proxy) = setup().await;
    db.setup(&format!(
        "CREATE SCHEMA shadow;
         CREATE DOMAIN shadow.text AS pg_catalog.text CHECK (false);
         CREATE DOMAIN shadow.xid8 AS pg_catalog.xid8 CHECK (false);
         CREATE FUNCTION shadow.never(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT false';
         CREATE OPERATOR shadow.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = shadow.never);
         ALTER DATABASE {} SET search_path = shadow, pg_catalog, public",
        db.config().get_dbname().unwrap()
    ))
    .await;
    let pool = pool(proxy.config(), 1);
    proxy.arm(COMMIT_ARRIVES);
    assert_eq!(resolved(&pool, 1).await.unwrap(), 1);
    proxy.arm(COMMIT_ARRIVES);
    assert_eq!(by_token(&pool, 2).await.unwrap(), 1);
    // The query that terminates a session uses these types too.
    let mut client = connect(proxy.config()).await;
    proxy.arm(Fault { cut: Cut::Silent, ..COMMIT_IS_CUT });
    let left = identity(resolved_in_time(&mut client, 3).await.unwrap_err());
    assert_eq!(left.resolve(&db.client().await).await.unwrap(), CommitOutcome::RolledBack);
}

#[tokio::test]
async fn a_look_up_emits_an_event() {
    let (_db, proxy) = setup().await;
    let pool = pool(proxy.config(), 1);
    for (fault, outcome) in [(COMMIT_ARRIVES, "committed"), (COMMIT_IS_CUT, "rolled back")] {
        let events = Events::capture();
        proxy.arm(fault);
        resolved(&pool, 1).await.unwrap();
        assert_eq!(events.of("commit outcome unknown").len(), 1, "{events:?}");
        assert_eq!(events.of("commit outcome looked up")[0]["outcome"], outcome);
    }
}

#[transactional(unknown_commit = "resolve")]
async fn with_hook(tx: &mut Transaction<'_>, committed: &'static AtomicU32) -> Result<(), Error> {
    tx.execute("INSERT INTO ledger VALUES (1, 1)", &[]).await?;
    tx.on_commit(async {
        committed.fetch_add(1, Ordering::Relaxed);
    });
    Ok(())
}

#[tokio::test]
async fn hooks_run_after_the_look_up() {
    static COMMITTED: AtomicU32 = AtomicU32::new(0);
    let (_db, proxy) = setup().await;
    let pool = pool(proxy.config(), 1);
    for (fault, committed) in [(COMMIT_ARRIVES, 1), (COMMIT_IS_CUT, 2)] {
        proxy.arm(fault);
        with_hook(&pool, &COMMITTED).await.unwrap();
        assert_eq!(COMMITTED.load(Ordering::Relaxed), committed);
    }
}

#[tokio::test]
async fn a_reconnect_source_looks_up_the_outcome() {
    let (db, proxy) = setup().await;
    let source = Reconnect::new(|| async {
        let (client, connection) = proxy.config().connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    });
    proxy.arm(COMMIT_ARRIVES);
    assert_eq!(resolved(&source, 1).await.unwrap(), 1);
    assert_eq!(times(db.config(), 1).await, 1);
}

fn identity(error: Error) -> Identity {
    match error {
        Error::CommitUnknown { identity: Some(identity), .. } => *identity,
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn on_a_client_the_caller_resolves_the_returned_identity() {
    let (db, proxy) = setup().await;
    let other = db.client().await;
    for (fault, outcome) in [(COMMIT_ARRIVES, CommitOutcome::Committed), (COMMIT_IS_CUT, CommitOutcome::RolledBack)] {
        let mut client = connect(proxy.config()).await;
        proxy.arm(fault);
        let by_id = identity(resolved(&mut client, 1).await.unwrap_err());
        assert!(by_id.xid().is_some() && by_id.token().is_none());
        let by_id: Identity = by_id.to_string().parse().expect("an identity can be stored as its text");
        assert_eq!(by_id.resolve(&other).await.unwrap(), outcome);

        let mut client = connect(proxy.config()).await;
        proxy.arm(fault);
        let by_token = identity(by_token(&mut client, 2).await.unwrap_err());
        assert!(by_token.xid().is_none() && by_token.token().is_some());
        let by_token: Identity = by_token.to_string().parse().expect("an identity can be stored as its text");
        for _ in 0..2 {
            assert_eq!(by_token.resolve(&other).await.unwrap(), outcome, "a second look-up has the same result");
        }
    }
}

/// The look-up does not choose an isolation level: the session's default applies.
#[tokio::test]
async fn the_look_up_of_a_token_waits_for_its_transaction_at_every_level() {
    let (db, proxy) = setup().await;
    let (holder, observer) = (db.client().await, db.client().await);
    for level in ["read committed", "repeatable read", "serializable"] {
        for (end, outcome) in [("COMMIT", CommitOutcome::Committed), ("ROLLBACK", CommitOutcome::RolledBack)] {
            let mut client = connect(proxy.config()).await;
            proxy.arm(COMMIT_IS_CUT);
            let identity = identity(by_token(&mut client, 1).await.unwrap_err());
            let token = identity.token().unwrap();
            let insert = format!("BEGIN; INSERT INTO transactional.commits (token) VALUES ('{token}')");
            holder.batch_execute(&insert).await.unwrap();

            let asker = db.client().await;
            asker.batch_execute(&format!("SET default_transaction_isolation = '{level}'")).await.unwrap();
            let asker_pid = pid(&asker).await;
            let end_it = async {
                wait_until(&observer, "wait_event_type = 'Lock'", asker_pid).await;
                holder.batch_execute(end).await.unwrap();
            };
            let (found, ()) = tokio::join!(identity.resolve(&asker), end_it);
            assert_eq!(found.unwrap(), outcome, "{end} at {level}");
            assert_eq!(db.open_transactions().await, 0, "{end} at {level}");
        }
    }
}

/// If the connection falls silent, the transaction stays open on the server. One that is about to commit is given 150 ms.
#[tokio::test]
async fn resolve_ends_a_transaction_that_is_still_in_progress() {
    let (db, proxy) = setup().await;
    let mut client = connect(proxy.config()).await;
    proxy.arm(Fault { cut: Cut::Silent, ..COMMIT_IS_CUT });
    let left = identity(resolved_in_time(&mut client, 1).await.unwrap_err());
    assert_eq!(db.open_transactions().await, 1);
    let other = db.client().await;
    let since = Instant::now();
    assert_eq!(left.resolve(&other).await.unwrap(), CommitOutcome::RolledBack);
    assert!(since.elapsed() >= Duration::from_millis(150), "{:?}", since.elapsed());
    assert_eq!(db.open_transactions().await, 0);
}

/// A reset of the statistics looks like a crash, but the transaction is still open and may commit.
#[tokio::test]
async fn a_reset_of_the_statistics_is_not_mistaken_for_a_crash() {
    let server = Server::start().unwrap();
    let other = connect(&server.config()).await;
    other.batch_execute(TABLES).await.unwrap();
    let proxy = Proxy::start(&server.config()).await.unwrap();
    let mut client = connect(proxy.config()).await;
    proxy.arm(Fault { cut: Cut::Silent, ..COMMIT_IS_CUT });
    let left = identity(resolved_in_time(&mut client, 1).await.unwrap_err());
    other.batch_execute("SELECT pg_stat_reset_shared('bgwriter')").await.unwrap();
    let while_open = tokio::time::timeout(Duration::from_millis(500), left.resolve(&other)).await;
    assert!(while_open.is_err(), "the transaction is still open: {while_open:?}");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'";
    other.batch_execute(end).await.unwrap();
    assert_eq!(left.resolve(&other).await.unwrap(), CommitOutcome::RolledBack);
}

/// Part of the deadline is reserved for the look-up.
#[tokio::test]
async fn a_commit_that_never_gets_a_reply_is_looked_up_before_the_deadline() {
    let (db, proxy) = setup().await;
    let pool = pool(proxy.config(), 2);
    for (request, attempts) in [(usize::MAX, 1), (9, 2)] {
        let id = i64::from(attempts);
        proxy.arm(Fault { text: "COMMIT", request, reply: 0, cut: Cut::Silent });
        assert_eq!(resolved_in_time(&pool, id).await.unwrap(), attempts);
        assert_eq!(times(db.config(), id).await, 1);
    }
}

#[tokio::test]
async fn a_server_that_cannot_identify_transactions_is_an_error_before_the_body_runs() {
    let (db, _proxy) = setup().await;
    db.setup(
        "CREATE ROLE plain LOGIN; GRANT INSERT ON ledger TO plain;
         REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
    )
    .await;
    let mut config = db.config().clone();
    config.user("plain");
    let pool = pool(&config, 1);
    let error = resolved(&pool, 1).await.unwrap_err();
    assert!(matches!(error, Error::ResolveUnsupported(_)), "{error:?}");
    assert_eq!(fail(&pool, 1).await.unwrap(), 1, "the connection is still usable");
    assert_eq!(pool.status().size, 1);
    db.setup("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC; DROP OWNED BY plain; DROP ROLE plain").await;
}
