//! `tx.send(…)` meets conflicts, a BEGIN that fails, deadlines, dropped calls and cut connections.
#![allow(missing_docs)]

use std::time::Duration;

use futures_util::FutureExt;
use retry_runtime::{Error, Phase, Transaction, install, transactional};
use retry_tests::calls::dropped_after;
use retry_tests::events::Events;
use retry_tests::proxy::{Cut, Fault, Proxy};
use retry_tests::rival::{Cancels, Rival};
use retry_tests::{Database, Server, pool};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Statement};

const SOON: Duration = Duration::from_secs(20);

async fn database() -> Database {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    db
}

async fn cents(db: &Database) -> (i64, i64) {
    (db.cents(1).await, db.cents(2).await)
}

/// Adds 10 to an account.
async fn add(tx: &Transaction<'_>, id: i64) -> Result<(), Error> {
    let add = tx.prepare_cached("UPDATE accounts SET cents = cents + 10 WHERE id = $1").await?;
    Ok(tx.send(&add, &[&id])?)
}

type Blocked = Mutex<Option<JoinHandle<Result<(), tokio_postgres::Error>>>>;

/// A rival provokes a conflict in the first attempt. The body meets it in a sent statement.
#[transactional(isolation = "repeatable read", lock_timeout = "50ms", base_delay = "250us", max_delay = "1ms")]
async fn conflict(tx: &mut Transaction<'_>, rival: &Rival, blocked: &Blocked, how: &str) -> Result<u32, Error> {
    let first = tx.attempt() == 1;
    let (conflict, then) = how.split_once(", ").unwrap_or((how, ""));
    tx.query_one("SELECT sum(cents) FROM accounts", &[]).await?;
    tx.prepare_cached("UPDATE accounts SET cents = cents + 10 WHERE id = $1").await?;
    match conflict {
        "serialization" if first => rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await,
        "lock" if first => rival.run("BEGIN; UPDATE accounts SET cents = cents + 1 WHERE id = 1").await,
        "deadlock" => {
            if first {
                rival.run("BEGIN; UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
                tx.execute("UPDATE accounts SET cents = cents WHERE id = 2", &[]).await?;
                tx.batch_execute("SET LOCAL lock_timeout = 0; SET LOCAL deadlock_timeout = '10ms'").await?;
                let wait = "UPDATE accounts SET cents = cents + 1 WHERE id = 2; ROLLBACK";
                *blocked.lock().await = Some(rival.block_on(wait).await);
            } else if let Some(blocked) = blocked.lock().await.take() {
                blocked.await.expect("the rival").expect("the rival is never the victim");
            }
        }
        "lock" if !first => rival.run("ROLLBACK").await,
        _ => {}
    }
    match then {
        "ignored" => {
            add(tx, 1).await?;
            let _ = tx.execute("SELECT 1", &[]).await;
        }
        "awaited" => {
            add(tx, 1).await?;
            tx.execute("SELECT 1", &[]).await?;
        }
        "own error" if first => {
            add(tx, 1).await?;
            return Err(Error::EndedByBody);
        }
        "forgiven" => {
            let savepoint = tx.transaction().await?;
            add(&savepoint, 1).await?;
            let _ = savepoint.commit().await;
        }
        "rolled back" if first => {
            let savepoint = tx.transaction().await?;
            add(&savepoint, 1).await?;
            drop(savepoint);
        }
        "" | "own error" | "rolled back" => add(tx, 1).await?,
        "expecting" => {
            let add = tx.prepare_cached("UPDATE accounts SET cents = cents + 10 WHERE id = $1").await?;
            tx.send_expecting(1, &add, &[&1_i64])?;
        }
        _ => unreachable!("{how}"),
    }
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_conflict_is_retried() {
    let db = database().await;
    let (pool, rival, blocked) = (db.pool(1), Rival::connect(&db).await, Blocked::default());
    for (class, rivals) in [("serialization", 1), ("lock", 0), ("deadlock", 0)] {
        for then in ["", ", ignored", ", awaited", ", own error", ", forgiven", ", rolled back", ", expecting"] {
            db.setup("UPDATE accounts SET cents = 100").await;
            let events = Events::capture();
            let how = format!("{class}{then}");
            let call = timeout(SOON, conflict(&pool, &rival, &blocked, &how)).await.expect("the call hangs");
            assert_eq!(call.unwrap(), 2, "{how}: {events:?}");
            assert_eq!(events.of("retrying")[0]["class"], class, "{how}: {events:?}");
            assert_eq!(db.cents(1).await, 110 + rivals, "{how}");
        }
    }
}

/// Asking for the identity makes BEGIN take longer, so a cancel request hits it more often.
#[transactional(begin = "pipelined", unknown_commit = "resolve", retries = 100)]
async fn write(tx: &mut Transaction<'_>, write: &Statement, call: i32) -> Result<i32, Error> {
    let attempt = i32::try_from(tx.attempt()).expect("few attempts");
    tx.send(write, &[&call, &attempt])?;
    if call % 2 == 0 {
        let savepoint = tx.transaction().await?;
        savepoint.send(write, &[&call, &attempt])?;
        savepoint.commit().await?;
    }
    Ok(attempt)
}

async fn attempts_of(client: &Client, call: i32) -> Vec<i32> {
    let sql = "SELECT DISTINCT attempt FROM ran WHERE call = $1";
    client.query(sql, &[&call]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// A sent statement is held back until BEGIN has succeeded. Otherwise it could be committed outside of the transaction.
#[tokio::test]
async fn no_sent_statement_runs_if_begin_was_cancelled() {
    // Its own server, because the requests can keep other tests from connecting.
    let server = Server::start().unwrap();
    let db = Database::create_on(&server.config()).await;
    db.setup("CREATE TABLE ran (call int, attempt int)").await;
    let (mut client, observer) = (db.client().await, db.client().await);
    let insert = client.prepare("INSERT INTO ran VALUES ($1, $2)").await.unwrap();
    let cancels = Cancels::start(client.cancel_token());
    let mut retried = [0, 0];
    for call in 0.. {
        let events = Events::capture();
        let result = timeout(SOON, write(&mut client, &insert, call)).await.expect("the reply to BEGIN is not read");
        let all = events.of("retrying");
        let hits = all.iter().filter(|event| event["class"] == "begin_canceled").count();
        let committed: Vec<i32> = result.iter().copied().collect();
        assert_eq!(attempts_of(&observer, call).await, committed, "{result:?} {events:?}");
        retried[usize::from(call % 2 == 0)] += hits;
        if retried.iter().all(|hits| *hits > 20) {
            break;
        }
    }
    drop(cancels);
}

#[transactional(begin = "pipelined")]
async fn pipelined(tx: &mut Transaction<'_>, how: &str) -> Result<i64, Error> {
    let seen = "SELECT cents FROM accounts WHERE id = 2";
    tx.send_typed("UPDATE accounts SET cents = cents + 1 WHERE id = 2", &[])?;
    match how {
        "nothing else" => {}
        "awaited" => return Ok(tx.query_one(seen, &[]).await?.get(0)),
        "savepoint" => {
            let savepoint = tx.transaction().await?;
            savepoint.send_typed("UPDATE accounts SET cents = cents + 1 WHERE id = 2", &[])?;
            let cents = savepoint.query_one(seen, &[]).await?.get(0);
            savepoint.commit().await?;
            return Ok(cents);
        }
        "savepoint rolled back" => {
            let savepoint = tx.transaction().await?;
            savepoint.send_typed("UPDATE accounts SET cents = cents + 1 WHERE id = 2", &[])?;
            savepoint.rollback().await?;
            return Ok(tx.query_one(seen, &[]).await?.get(0));
        }
        "dropped" => {
            let never = "UPDATE accounts SET cents = 0";
            assert!(tx.execute(never, &[]).now_or_never().is_none());
            return Ok(tx.query_one(seen, &[]).await?.get(0));
        }
        "own error" => return Err(Error::EndedByBody),
        _ => unreachable!("{how}"),
    }
    Ok(0)
}

#[tokio::test]
async fn what_is_held_back_leaves_before_any_other_statement() {
    let db = database().await;
    let pool = db.pool(1);
    for (how, seen, written) in [
        ("nothing else", 0, 101),
        ("awaited", 101, 101),
        ("savepoint", 102, 102),
        ("savepoint rolled back", 101, 101),
        ("dropped", 101, 101),
    ] {
        db.setup("UPDATE accounts SET cents = 100").await;
        let call = timeout(SOON, pipelined(&pool, how)).await.expect("the call hangs");
        assert_eq!((call.unwrap(), db.cents(2).await), (seen, written), "{how}");
    }
    pipelined(&pool, "own error").await.unwrap_err();
    assert_eq!(db.cents(2).await, 101);
}

#[transactional(deadline = "300ms")]
async fn slow(tx: &mut Transaction<'_>, expecting: bool, on_server: bool) -> Result<(), Error> {
    add(tx, 1).await?;
    let sleep = tx.prepare_cached("SELECT pg_sleep(60)").await?;
    if !on_server {
        tx.batch_execute("SET LOCAL statement_timeout = 0").await?;
    }
    if expecting {
        tx.send_expecting(1, &sleep, &[])?;
    } else {
        tx.send(&sleep, &[])?;
    }
    Ok(())
}

/// `on_server`: the server ends the statement too, perhaps first.
#[tokio::test]
async fn the_deadline_bounds_the_wait() {
    let db = database().await;
    let observer = db.client().await;
    for (expecting, on_server) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut client = db.client().await;
        let call = timeout(SOON, slow(&mut client, expecting, on_server)).await.expect("the call hangs");
        let error = call.unwrap_err();
        let is_known = matches!(error, Error::DeadlineExceeded { phase: Phase::Body, .. });
        // COMMIT was sent, unless it waits for the number of rows.
        let is_right = if expecting { is_known } else { error.is_unknown() || (is_known && on_server) };
        assert!(is_right, "{expecting} {on_server}: {error:?}");
        if !on_server {
            let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
                          WHERE wait_event = 'PgSleep' AND datname = current_database()";
            while observer.query(cancel, &[]).await.unwrap().is_empty() {}
        }
        client.batch_execute("SELECT 1").await.unwrap();
        assert_eq!((db.cents(1).await, db.open_transactions().await), (100, 0));
    }
}

/// This side is blocked around the deadline, so it sees the server's timeout first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_timeout_at_the_deadline_is_the_deadline() {
    let db = database().await;
    for expecting in [false, true] {
        let (mut client, observer) = (db.client().await, db.client().await);
        let both = async move {
            let block = async {
                let asleep = "SELECT FROM pg_stat_activity
                              WHERE wait_event = 'PgSleep' AND datname = current_database()";
                while observer.query(asleep, &[]).await.unwrap().is_empty() {}
                tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(800)));
            };
            tokio::join!(slow(&mut client, expecting, true), block).0
        };
        let error = timeout(SOON, tokio::spawn(both)).await.expect("the call hangs").unwrap().unwrap_err();
        assert!(matches!(error, Error::DeadlineExceeded { phase: Phase::Body, .. }), "{expecting}: {error:?}");
        assert_eq!(db.cents(1).await, 100);
    }
}

#[transactional]
async fn empty_accounts(tx: &mut Transaction<'_>, how: u32) -> Result<(), Error> {
    tx.send_typed("UPDATE accounts SET cents = 0 WHERE id = 1", &[])?;
    if how == 1 {
        tx.query_one("SELECT 1", &[]).await?;
    }
    if how == 2 {
        let savepoint = tx.transaction().await?;
        savepoint.send_typed("UPDATE accounts SET cents = 0 WHERE id = 2", &[])?;
        return savepoint.commit().await;
    }
    tx.send_typed("UPDATE accounts SET cents = 0 WHERE id = 2", &[])?;
    Ok(())
}

#[transactional(begin = "pipelined")]
async fn empty_accounts_pipelined(tx: &mut Transaction<'_>, how: u32) -> Result<(), Error> {
    empty_accounts(&mut *tx, how).await
}

/// Drops calls at every point. Nothing stays open, and no call is committed in part.
#[tokio::test]
async fn a_dropped_call_leaves_nothing_open() {
    let db = database().await;
    let pool = db.pool(1);
    let mut client = db.client().await;
    let mut dropped = 0;
    for round in 0..96 {
        let (polls, how) = (round / 6 % 8, round % 3);
        db.setup("UPDATE accounts SET cents = 100").await;
        let done = match round % 6 / 3 {
            0 if round < 48 => dropped_after(empty_accounts(&pool, how), polls).await,
            0 => dropped_after(empty_accounts(&mut client, how), polls).await,
            _ if round < 48 => dropped_after(empty_accounts_pipelined(&pool, how), polls).await,
            _ => dropped_after(empty_accounts_pipelined(&mut client, how), polls).await,
        };
        dropped += u32::from(!done);
        // Both connections have their replies, and the pool's is clean.
        client.batch_execute("SELECT 1").await.unwrap();
        pool.get().await.unwrap().batch_execute("SELECT 1").await.unwrap();
        assert_eq!(db.open_transactions().await, 0, "{how} after {polls} polls");
        let left = cents(&db).await;
        assert!(left == (0, 0) || (!done && left == (100, 100)), "{left:?}: {how} after {polls} polls");
    }
    assert!(dropped > 20, "dropped: {dropped}");
}

#[transactional(unknown_commit = "resolve", base_delay = "250us", max_delay = "1ms")]
async fn resolved(tx: &mut Transaction<'_>, id: i64) -> Result<u32, Error> {
    tx.send_typed(&format!("INSERT INTO ledger VALUES ({id})"), &[])?;
    Ok(tx.attempt())
}

#[transactional]
async fn unresolved(tx: &mut Transaction<'_>, id: i64) -> Result<u32, Error> {
    tx.send_typed(&format!("INSERT INTO ledger VALUES ({id})"), &[])?;
    Ok(tx.attempt())
}

/// Cuts the connection at every byte of the flight that has INSERT and COMMIT, and of the reply.
#[tokio::test]
async fn a_cut_anywhere_in_the_last_flight_is_never_guessed() {
    let db = database().await;
    db.setup("CREATE TABLE ledger (id bigint)").await;
    install(&db.client().await).await.unwrap();
    let proxy = Proxy::start(db.config()).await.unwrap();
    let pool = pool(proxy.config(), 2);
    let observer = db.client().await;
    let written = async |id: i64| -> i64 {
        observer.query_one("SELECT count(*) FROM ledger WHERE id = $1", &[&id]).await.unwrap().get(0)
    };
    let (mut id, mut committed, mut rolled_back, mut without_a_reply) = (0, 0, 0, 0);
    let requests = (0..160).map(|request| (request, 0));
    for (request, reply) in requests.chain((0..90).map(|reply| (usize::MAX, reply))) {
        let cut = if (request ^ reply) % 2 == 0 { Cut::Close } else { Cut::Reset };
        id += 1;
        proxy.arm(Fault { text: "COMMIT", request, reply, cut });
        let attempts = resolved(&pool, id).await.unwrap();
        assert!(!proxy.is_armed(), "the fault happened");
        assert_eq!(written(id).await, 1, "{request} {reply} {cut:?}");
        without_a_reply += i32::from(attempts == 1);

        id += 1;
        proxy.arm(Fault { text: "COMMIT", request, reply, cut });
        match unresolved(&pool, id).await {
            Ok(_) => assert_eq!(written(id).await, 1, "{request} {reply} {cut:?}"),
            Err(Error::CommitUnknown { .. }) => match written(id).await {
                1 => committed += 1,
                _ => rolled_back += 1,
            },
            Err(error) => panic!("{request} {reply} {cut:?}: {error:?}"),
        }
    }
    assert!(committed > 20 && rolled_back > 20 && without_a_reply > 20, "{committed} {rolled_back} {without_a_reply}");
}
