//! `queue = "server"`: calls of all processes queue for each other, by locks on tables in the database.
#![allow(missing_docs)]

use std::panic::AssertUnwindSafe;
use std::process::{Command, Stdio};
use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::future::{join_all, try_join_all};
use futures_util::{FutureExt, join, poll};
use retry_runtime::{Class, Error, INSTALL_QUEUES_SQL, Phase, Transaction, classify, install_queues, transactional};
use retry_tests::calls::dropped_after;
use retry_tests::pgbouncer::PgBouncer;
use retry_tests::proxy::{Cut, Fault, Proxy};
use retry_tests::rival::Rival;
use retry_tests::{Database, connect};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{Barrier, Notify};
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

const SOON: Duration = Duration::from_secs(20);
/// The locks on the tables of the queues, granted or waited for.
const LOCKS: &str = "SELECT count(*) FROM pg_locks JOIN pg_class ON relation = pg_class.oid \
     WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND relname LIKE 'queue\\___'";
const SESSIONS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
const WAITING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

async fn database() -> Database {
    let db = Database::create().await;
    db.accounts(8, 100).await;
    install_queues(&db.client().await).await.unwrap();
    db
}

/// Waits until a count is as expected.
async fn until(db: &Database, count: &str, expected: i64) {
    let client = db.client().await;
    let reached = async {
        while client.query_one(count, &[]).await.unwrap().get::<_, i64>(0) != expected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, reached).await.unwrap_or_else(|_| panic!("never {expected}: {count}"));
}

/// Locks every table of the queues.
async fn lock_all(rival: &Rival) {
    let tables: Vec<_> = (0..64).map(|table| format!("transactional.queue_{table:02}")).collect();
    rival.run(&format!("BEGIN; LOCK TABLE {} IN EXCLUSIVE MODE", tables.join(", "))).await;
}

#[transactional(name = "add", isolation = "serializable", queue_by = id, queue = "server")]
async fn add(tx: &mut Transaction<'_>, id: i64) -> Result<u32, Error> {
    let cents: i64 = tx.query_one("SELECT cents FROM accounts WHERE id = $1", &[&id]).await?.get(0);
    tokio::task::yield_now().await;
    tx.execute("UPDATE accounts SET cents = $1 WHERE id = $2", &[&(cents + 1), &id]).await?;
    Ok(tx.attempt())
}

/// A pool has its own queues in this process, so it stands for a process. One row, because `serializable` calls may conflict
/// if their rows are on one page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_several_pools_with_an_equal_key_never_conflict() {
    let db = database().await;
    let pools = [(); 4].map(|()| db.pool(3));
    let calls = pools.iter().flat_map(|pool| (0..60).map(move |_| add(pool, 1)));
    let attempts = timeout(SOON, try_join_all(calls)).await.expect("the queues are stuck").unwrap();
    assert!(attempts.iter().all(|attempt| *attempt == 1), "{attempts:?}");
    assert_eq!(db.cents(1).await, 340);
    assert_eq!(db.value::<i64>(LOCKS).await, 0);
}

#[transactional(isolation = "repeatable read", begin = "pipelined", queue_by = id, queue = "server", deadline = "1m")]
async fn add_pipelined(tx: &mut Transaction<'_>, id: i64) -> Result<u32, Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = $1", &[&id]).await?;
    tokio::task::yield_now().await;
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = $1", &[&id]).await?;
    Ok(tx.attempt())
}

#[transactional(isolation = "repeatable read", unknown_commit = "resolve", queue_by = id, queue = "server")]
async fn add_resolved(tx: &mut Transaction<'_>, id: i64) -> Result<u32, Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = $1", &[&id]).await?;
    tokio::task::yield_now().await;
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = $1", &[&id]).await?;
    Ok(tx.attempt())
}

/// Other parts of BEGIN's message must not take the transaction's snapshot before the locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_option_takes_the_snapshot_before_the_locks() {
    let db = database().await;
    let pools = [(); 4].map(|()| db.pool(3));
    let pipelined = join_all(pools.iter().flat_map(|pool| (0..40).map(move |_| add_pipelined(pool, 1))));
    let resolved = join_all(pools.iter().flat_map(|pool| (0..40).map(move |_| add_resolved(pool, 2))));
    let (pipelined, resolved) = timeout(SOON, async { join!(pipelined, resolved) }).await.expect("they are stuck");
    let attempts: Vec<u32> = pipelined.into_iter().chain(resolved).map(Result::unwrap).collect();
    assert!(attempts.iter().all(|attempt| *attempt == 1), "{attempts:?}");
}

#[transactional(queue_by = [from, to], queue = "server")]
async fn transfer(tx: &mut Transaction<'_>, from: i64, to: i64) -> Result<u32, Error> {
    for (id, cents) in [(from, -1_i64), (to, 1)] {
        tx.execute("UPDATE accounts SET cents = cents + $1 WHERE id = $2", &[&cents, &id]).await?;
        tokio::task::yield_now().await;
    }
    Ok(tx.attempt())
}

/// Calls lock rows in every order, but do not deadlock. Neither do the locks on the tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_keys_never_deadlock() {
    let db = database().await;
    let pools = [(); 4].map(|()| db.pool(3));
    let pairs = |n: i64| (n % 4 + 1, (n + n / 4 % 3 + 1) % 4 + 1);
    let calls = pools.iter().flat_map(|pool| (0..60).map(pairs).map(move |(from, to)| transfer(pool, from, to)));
    let attempts = timeout(SOON, try_join_all(calls)).await.expect("the queues are stuck").unwrap();
    assert!(attempts.iter().all(|attempt| *attempt == 1), "{attempts:?}");
}

#[transactional(queue_by = key, queue = "server")]
async fn meet(tx: &mut Transaction<'_>, key: &str, barrier: &Barrier) -> Result<(), Error> {
    tx.batch_execute("SELECT 1").await?;
    barrier.wait().await;
    Ok(())
}

#[tokio::test]
async fn calls_with_different_tables_run_concurrently() {
    let db = database().await;
    let (pool, barrier) = (db.pool(2), Barrier::new(2));
    let both = async { join!(meet(&pool, "one", &barrier), meet(&pool, "two", &barrier)) };
    let (one, two) = timeout(SOON, both).await.expect("they wait for each other");
    one.unwrap();
    two.unwrap();
}

#[transactional(queue_by = (), queue = "server")]
async fn in_turn(tx: &mut Transaction<'_>, inside: &Notify, gate: &Notify) -> Result<(), Error> {
    tx.batch_execute("SELECT 1").await?;
    inside.notify_one();
    gate.notified().await;
    Ok(())
}

#[tokio::test]
async fn of_one_process_one_call_runs_and_one_waits_in_the_server() {
    let db = database().await;
    let (pool, inside, gate) = (db.pool(8), Notify::new(), Notify::new());
    let calls = join_all((0..5).map(|_| in_turn(&pool, &inside, &gate)));
    let watch = async {
        for left in (0..5).rev() {
            inside.notified().await;
            until(&db, WAITING, i64::from(left > 0)).await;
            assert_eq!(pool.status().size - pool.status().available, 1 + usize::from(left > 0));
            gate.notify_one();
        }
    };
    let (calls, ()) = timeout(SOON, async { join!(calls, watch) }).await.expect("a call never ran");
    calls.into_iter().for_each(Result::unwrap);
}

#[transactional(isolation = "serializable", queue_by = key, queue = "server", escalate_after = 1, deadlock_retries = 50)]
async fn escalates(tx: &mut Transaction<'_>, key: i64) -> Result<(), Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    tokio::task::yield_now().await;
    tx.execute("UPDATE accounts SET cents = cents + $1 WHERE id = 1", &[&key]).await?;
    Ok(())
}

/// A call that runs alone has left the queue of its key, and must not wait there for calls that wait to run alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_escalate_do_not_wait_for_each_other() {
    let db = database().await;
    let pool = db.pool(8);
    let calls = (0..300).map(|n| escalates(&pool, n % 3));
    timeout(SOON, try_join_all(calls)).await.expect("the queues are stuck").unwrap();
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_locked() {
    let db = database().await;
    let other = db.pool(1);
    for polls in 0.. {
        let pool = db.pool(1);
        drop(pool.get().await.unwrap());
        let done = dropped_after(add(&pool, 1), polls).await;
        timeout(SOON, add(&other, 1)).await.expect("the queue is stuck").unwrap();
        until(&db, LOCKS, 0).await;
        if done {
            assert!(polls > 6, "{polls}");
            break;
        }
    }
}

#[tokio::test]
async fn a_call_dropped_while_it_waits_in_the_server_leaves_nothing_locked() {
    let db = database().await;
    let (pool, rival) = (db.pool(2), Rival::connect(&db).await);
    lock_all(&rival).await;
    let mut waiting = Box::pin(add(&pool, 1));
    assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    until(&db, WAITING, 1).await;
    let mut next = Box::pin(add(&pool, 1));
    assert!(poll!(&mut next).is_pending());
    drop(waiting);
    rival.run("ROLLBACK").await;
    assert_eq!(timeout(SOON, next).await.expect("the queue is stuck").unwrap(), 1);
    until(&db, LOCKS, 0).await;
}

#[transactional(name = "add", queue_by = id, queue = "server")]
async fn panics(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    tx.batch_execute("SELECT 1").await?;
    panic!("in the body")
}

#[tokio::test]
async fn a_panic_leaves_nothing_locked() {
    let db = database().await;
    let pool = db.pool(1);
    assert!(AssertUnwindSafe(panics(&pool, 1)).catch_unwind().await.is_err());
    assert_eq!(timeout(SOON, add(&pool, 1)).await.expect("the queue is stuck").unwrap(), 1);
    until(&db, LOCKS, 0).await;
}

#[tokio::test]
async fn a_cut_connection_leaves_nothing_locked() {
    let db = database().await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    let pool = retry_tests::pool(proxy.config(), 1);
    for text in ["BEGIN", "UPDATE", "COMMIT"] {
        proxy.arm(Fault { text, request: usize::MAX, reply: 0, cut: Cut::Close });
        let _ = add(&pool, 1).await;
        assert!(!proxy.is_armed());
        timeout(SOON, add(&pool, 1)).await.expect("the queue is stuck").unwrap();
        until(&db, LOCKS, 0).await;
    }
}

/// The configuration as a connection string.
fn connection_string(config: &Config) -> String {
    let host = match &config.get_hosts()[0] {
        Host::Unix(folder) => folder.display().to_string(),
        Host::Tcp(host) => host.clone(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let (user, dbname) = (config.get_user().unwrap(), config.get_dbname().unwrap());
    let password = config
        .get_password()
        .map_or_else(String::new, |password| format!(" password='{}'", std::str::from_utf8(password).unwrap()));
    format!("host='{host}' port={port} user='{user}' dbname='{dbname}'{password}")
}

#[tokio::test]
async fn other_processes_share_the_queues_and_leave_them_when_they_are_killed() {
    let db = database().await;
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_hold_queue"))
        .args([&connection_string(db.config()), "1"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    assert_eq!(line, "inside\n");
    let pool = db.pool(2);
    let mut call = Box::pin(add(&pool, 1));
    assert!(timeout(Duration::from_millis(50), &mut call).await.is_err());
    until(&db, WAITING, 1).await;
    assert_eq!(timeout(SOON, add(&pool, 2)).await.expect("it has another table").unwrap(), 1);
    Command::new("kill").args(["-9", &child.id().unwrap().to_string()]).status().unwrap();
    assert_eq!(timeout(SOON, call).await.expect("the queue is stuck").unwrap(), 1);
    until(&db, LOCKS, 0).await;
}

#[transactional(queue_by = (), queue = "server", lock_timeout = "10ms", deadlock_retries = 1)]
async fn with_lock_timeout(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

#[tokio::test]
async fn lock_timeout_bounds_the_wait_and_is_retried() {
    let db = database().await;
    let (pool, rival) = (db.pool(1), Rival::connect(&db).await);
    lock_all(&rival).await;
    let error = timeout(SOON, with_lock_timeout(&pool)).await.expect("the wait does not end").unwrap_err();
    assert_eq!(classify(&error), Some(Class::Lock), "{error:?}");
    assert_eq!(error.history().unwrap().attempts(), 2);
    rival.run("ROLLBACK").await;
    with_lock_timeout(&pool).await.unwrap();
}

#[transactional(queue_by = (), queue = "server", deadline = "300ms")]
async fn with_deadline(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

#[tokio::test]
async fn the_deadline_bounds_the_wait_also_in_the_server() {
    let db = database().await;
    let (pool, rival) = (db.pool(1), Rival::connect(&db).await);
    for call in ["asks for the session's timeout", "knows it"] {
        lock_all(&rival).await;
        let result = timeout(SOON, with_deadline(&pool)).await.expect("the wait does not end");
        assert!(matches!(result, Err(Error::DeadlineExceeded { phase: Phase::Begin, .. })), "{call}: {result:?}");
        until(&db, WAITING, 0).await;
        rival.run("ROLLBACK").await;
        with_deadline(&pool).await.unwrap();
    }
}

// The connection has a thread of its own: it has the server's reply when this one looks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_timeout_of_the_server_may_be_seen_first() {
    let db = database().await;
    let (pool, rival) = (db.pool(1), Rival::connect(&db).await);
    lock_all(&rival).await;
    let late = async {
        until(&db, WAITING, 1).await;
        std::thread::sleep(Duration::from_millis(500));
    };
    let (result, ()) = timeout(SOON, async { tokio::join!(with_deadline(&pool), late) }).await.expect("the wait ends");
    assert!(matches!(result, Err(Error::DeadlineExceeded { phase: Phase::Begin, .. })), "{result:?}");
    rival.run("ROLLBACK").await;
    with_deadline(&pool).await.unwrap();
}

#[transactional(queue_by = (), queue = "server", independent)]
async fn independent(tx: &mut Transaction<'_>, db: &Database) -> Result<(), Error> {
    tx.batch_execute("SELECT 1").await?;
    assert_eq!(db.value::<i64>(LOCKS).await, 0, "a call inside a body");
    Ok(())
}

#[tokio::test]
async fn calls_inside_a_transaction_lock_nothing() {
    let db = database().await;
    let pool = db.pool(2);
    outer(&pool, &db, &pool).await.unwrap();
}

#[transactional(isolation = "serializable")]
async fn outer(tx: &mut Transaction<'_>, db: &Database, pool: &Pool) -> Result<(), Error> {
    add(&mut *tx, 1).await?;
    assert_eq!(db.value::<i64>(LOCKS).await, 0, "a nested call");
    independent(pool, db).await
}

#[tokio::test]
async fn without_the_tables_or_the_privilege_the_body_does_not_run() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    let role = format!("unprivileged_in_{}", db.config().get_dbname().unwrap());
    db.setup(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT, UPDATE ON accounts TO {role}")).await;
    let mut unprivileged = db.config().clone();
    unprivileged.user(&role);
    let pool = retry_tests::pool(&unprivileged, 1);
    for (make, code) in [
        ("SELECT", "3F000"),
        ("CREATE SCHEMA transactional", "42501"),
        (&*format!("GRANT USAGE ON SCHEMA transactional TO {role}"), "42P01"),
        (INSTALL_QUEUES_SQL, "42501"),
        (&*format!("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA transactional TO {role}"), "42501"),
    ] {
        db.setup(make).await;
        for error in [add(&pool, 1).await.unwrap_err(), add_pipelined(&pool, 1).await.unwrap_err()] {
            assert!(matches!(&error, Error::QueueUnsupported(_)), "{make}: {error:?}");
            assert_eq!(error.as_db_error().unwrap().code().code(), code, "{make}");
            assert_eq!(classify(&error), Some(Class::Fatal));
            assert!(error.to_string().contains("`install_queues`"), "{error}");
        }
        assert_eq!(db.open_transactions().await, 0);
    }
    let mut privileges = vec!["UPDATE", "DELETE", "TRUNCATE"];
    if db.server_version().await >= 17 {
        privileges.push("MAINTAIN");
    }
    for privilege in privileges {
        let on = "ON ALL TABLES IN SCHEMA transactional";
        db.setup(&format!("GRANT {privilege} {on} TO {role}")).await;
        assert_eq!(add(&pool, 1).await.unwrap(), 1, "{privilege}");
        db.setup(&format!("REVOKE {privilege} {on} FROM {role}")).await;
    }
    db.setup(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_through_pgbouncer_in_transaction_mode() {
    let db = database().await;
    let bouncer = PgBouncer::start(db.config(), &["default_pool_size = 3"]).unwrap_or_else(|error| panic!("{error}"));
    let pools = [(); 4].map(|()| retry_tests::pool(bouncer.config(), 2));
    let calls = pools.iter().flat_map(|pool| (0..40).map(move |_| add_typed(pool)));
    let attempts = timeout(SOON, try_join_all(calls)).await.expect("the queues are stuck").unwrap();
    assert!(attempts.iter().all(|attempt| *attempt == 1), "{attempts:?}");
    assert_eq!(db.cents(1).await, 260);
    until(&db, LOCKS, 0).await;
}

/// Prepares nothing: this `PgBouncer` keeps no prepared statements.
#[transactional(isolation = "serializable", queue_by = (), queue = "server")]
async fn add_typed(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    tx.simple_query("SELECT cents FROM accounts WHERE id = 1").await?;
    tokio::task::yield_now().await;
    tx.batch_execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await?;
    Ok(tx.attempt())
}

#[tokio::test]
async fn installing_needs_no_privilege_for_what_exists_and_may_run_concurrently() {
    let db = Database::create().await;
    for nothing in ["DROP SCHEMA IF EXISTS transactional CASCADE", "DROP TABLE transactional.queue_63"] {
        for _ in 0..5 {
            db.setup(nothing).await;
            let clients = join_all((0..8).map(|_| db.client())).await;
            try_join_all(clients.iter().map(install_queues)).await.unwrap();
        }
    }
    db.setup(INSTALL_QUEUES_SQL).await;
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'transactional'::regnamespace AND relkind = 'r'";
    assert_eq!(db.value::<i64>(tables).await, 64);
    let mut polls = 0;
    loop {
        // The statement of a dropped call must not run beside this one.
        until(&db, SESSIONS, 0).await;
        db.setup("DROP SCHEMA transactional CASCADE").await;
        let is_done = dropped_after(install_queues(&db.client().await), polls).await;
        install_queues(&db.client().await).await.unwrap();
        assert_eq!(db.value::<i64>(tables).await, 64, "after {polls} polls");
        if is_done {
            break;
        }
        polls += 1;
    }
    assert!(polls > 2, "each statement has been interrupted");

    let role = format!("installs_in_{}", db.config().get_dbname().unwrap());
    db.setup(&format!("CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA transactional TO {role}")).await;
    let mut unprivileged = db.config().clone();
    unprivileged.user(&role);
    let client = connect(&unprivileged).await;
    install_queues(&client).await.unwrap();
    db.setup("DROP TABLE transactional.queue_07").await;
    assert!(install_queues(&client).await.is_err(), "it may not create a table");
    db.setup(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
