//! Outcomes after a crash of the server.

use std::collections::HashMap;
use std::sync::atomic::AtomicI64;

use deadpool_postgres::Pool;
use retry_tests::reconnect;
use retry_tests::rival::{kill, kill_if_running};
use tokio_postgres::error::SqlState;

use super::*;

/// After a crash, the server reuses the id of a transaction that it had not flushed. The transaction that gets it commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_reused_after_a_crash_is_not_mistaken_for_the_same_transaction() {
    // The crash must come before the server flushes the id. Ending the transaction would flush it.
    let server = Server::start_with(&["wal_writer_delay=10s", "bgwriter_delay=10s"]).unwrap();
    let observer = connect(&server.config()).await;
    observer.batch_execute(TABLES).await.unwrap();
    observer.batch_execute("CHECKPOINT").await.unwrap();
    let proxy = Proxy::start(&server.config()).await.unwrap();
    let mut client = connect(proxy.config()).await;
    proxy.arm(Fault { cut: Cut::Silent, ..COMMIT_IS_CUT });
    let unflushed = identity(resolved_in_time(&mut client, 1).await.unwrap_err());
    let other = connect(&server.config()).await;
    kill(pid(&observer).await);
    // The kill makes the whole server restart.
    while !other.is_closed() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let client = reconnect(&server.config()).await;
    let next_id = async || -> u64 {
        let xid: String = client.query_one("SELECT pg_current_xact_id()::text", &[]).await.unwrap().get(0);
        xid.parse().unwrap()
    };
    assert!(next_id().await <= unflushed.xid().unwrap(), "the id was not flushed before the crash");
    while next_id().await < unflushed.xid().unwrap() {}
    let status = format!("SELECT pg_xact_status('{}')", unflushed.xid().unwrap());
    let naive: Option<String> = client.query_one(&status, &[]).await.unwrap().get(0);
    assert_eq!(naive.as_deref(), Some("committed"), "the id now belongs to another transaction");
    assert_eq!(unflushed.resolve(&client).await.unwrap(), CommitOutcome::Unknown);
}

/// An id that the server has not assigned yet was lost in a crash, if it is of an earlier incarnation.
#[tokio::test]
async fn an_id_that_was_not_assigned_again_is_of_a_lost_transaction() {
    let (db, proxy) = setup().await;
    let mut client = connect(proxy.config()).await;
    proxy.arm(COMMIT_ARRIVES);
    let text = identity(resolved(&mut client, 1).await.unwrap_err()).to_string();
    let fields: Vec<&str> = text.split('/').collect();
    let [_, pid, timeline, stats_reset, system] = fields[..] else { panic!("{text}") };
    let earlier = format!("{}0", &stats_reset[1..]);
    let identity_of = |xid: u64, reset: &str, system: &str| -> Identity {
        format!("xid:{xid}/{pid}/{timeline}/{reset}/{system}").parse().unwrap()
    };
    let client = db.client().await;
    for (identity, outcome) in [
        (identity_of(4_000_000_000, &earlier, system), CommitOutcome::RolledBack),
        (identity_of(4_000_000_000, stats_reset, system), CommitOutcome::Unknown),
        (identity_of(4_000_000_000, &earlier, "1"), CommitOutcome::Unknown),
        (text.parse().unwrap(), CommitOutcome::Committed),
    ] {
        assert_eq!(identity.resolve(&client).await.unwrap(), outcome, "{identity}");
    }
    let no_right =
        "REVOKE EXECUTE ON FUNCTION pg_xact_status(xid8) FROM PUBLIC; CREATE ROLE no_right; SET ROLE no_right";
    client.batch_execute(no_right).await.unwrap();
    let error = identity_of(4_000_000_000, &earlier, system).resolve(&client).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    client.batch_execute("RESET ROLE; DROP ROLE no_right").await.unwrap();
}

/// Callers commit while the server crashes repeatedly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_outcome_is_guessed_while_the_server_crashes() {
    // With synchronous_commit off, a crash would lose acknowledged commits.
    let server = Server::start_with(&["synchronous_commit=on"]).unwrap();
    let config = server.config();
    let setup = connect(&config).await;
    setup.batch_execute(TABLES).await.unwrap();
    install(&setup).await.unwrap();
    let pool = pool(&config, 6);
    let next = AtomicI64::new(1);
    let until = Instant::now() + Duration::from_secs(6);
    let callers = (0..6).map(|caller| call_until(until, &pool, &next, caller % 2 == 0));
    let crashes = async {
        while Instant::now() + Duration::from_secs(1) < until {
            tokio::time::sleep(Duration::from_millis(120)).await;
            if let Ok((client, connection)) = config.connect(NoTls).await {
                tokio::spawn(connection);
                let any = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'INSERT%' OR query LIKE '%COMMIT' LIMIT 1";
                if let Ok(Some(row)) = client.query_opt(any, &[]).await {
                    // It may have ended since.
                    let _ = kill_if_running(row.get(0));
                }
            }
        }
    };
    let (outcomes, ()) = tokio::join!(futures_util::future::join_all(callers), crashes);
    let rows = reconnect(&config).await.query("SELECT id, count(*) FROM ledger GROUP BY id", &[]).await.unwrap();
    let ledger: HashMap<i64, i64> = rows.into_iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut unknown = 0;
    for (id, result) in outcomes.into_iter().flatten() {
        let times = ledger.get(&id).copied().unwrap_or_default();
        match result {
            Ok(_) => assert_eq!(times, 1, "{id} returned Ok"),
            Err(Error::CommitUnknown { .. }) => unknown += 1,
            Err(error) => assert_eq!(times, 0, "{id} returned an error that means rolled back: {error:?}"),
        }
    }
    println!("{} calls, {unknown} with an unknown outcome", next.load(Ordering::Relaxed) - 1);
}

async fn call_until(until: Instant, pool: &Pool, next: &AtomicI64, token: bool) -> Vec<(i64, Result<u32, Error>)> {
    let mut outcomes = Vec::new();
    while Instant::now() < until {
        let id = next.fetch_add(1, Ordering::Relaxed);
        let result = if token { by_token(pool, id).await } else { resolved(pool, id).await };
        if result.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        outcomes.push((id, result));
    }
    outcomes
}
