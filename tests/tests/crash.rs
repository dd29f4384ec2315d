//! `early_release`: what a call has returned `Ok` for survives a crash, a power cut and a failover.
//!
//! The same load with plain asynchronous commits must lose some of what it returned `Ok` for, or the tests prove nothing.
#![allow(missing_docs)]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use retry_runtime::{Error, Transaction, transactional};
use retry_tests::standby::promote;
use retry_tests::{Server, connect, pool};
use tokio::time::{sleep, timeout};
use tokio_postgres::Config;

/// How many sessions write.
const WRITERS: usize = 4;

/// The log writer does not write by itself what a commit has not flushed.
const SETTINGS: [&str; 5] =
    ["fsync=on", "full_page_writes=on", "synchronous_commit=on", "wal_writer_delay=10s", "wal_buffers=16MB"];

async fn write(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    tx.execute("INSERT INTO ledger VALUES ($1)", &[&id]).await?;
    Ok(())
}

#[transactional(early_release, retries = 0)]
async fn early(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    write(tx, id).await
}

#[transactional(retries = 0)]
async fn plain(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    write(tx, id).await
}

/// How the calls commit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Commit {
    Early,
    Asynchronous,
}

static NEXT: AtomicI64 = AtomicI64::new(1);

/// Calls until the server ends. Returns what was acknowledged, and counts it meanwhile.
async fn load(config: Config, commit: Commit, count: Arc<AtomicUsize>) -> Vec<i64> {
    let mut config = config;
    if commit == Commit::Asynchronous {
        config.options("-c synchronous_commit=off");
    }
    let pool = pool(&config, WRITERS);
    let writers = (0..WRITERS).map(|_| async {
        let mut acknowledged = Vec::new();
        loop {
            let id = NEXT.fetch_add(1, Ordering::Relaxed);
            let call = async { if commit == Commit::Early { early(&pool, id).await } else { plain(&pool, id).await } };
            match timeout(Duration::from_secs(20), call).await.expect("the call ends with the server") {
                Ok(()) => {
                    acknowledged.push(id);
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => return acknowledged,
            }
        }
    });
    join_all(writers).await.concat()
}

async fn create(config: &Config) {
    connect(config).await.batch_execute("CREATE TABLE ledger (id bigint PRIMARY KEY)").await.unwrap();
}

/// How many of these are not there.
async fn missing(config: &Config, acknowledged: &[i64]) -> usize {
    let rows = connect(config).await.query("SELECT id FROM ledger", &[]).await.unwrap();
    let found: HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    acknowledged.iter().filter(|id| !found.contains(id)).count()
}

/// Runs the load, and ends the server under it. Returns what was acknowledged.
async fn under_load(config: &Config, commit: Commit, round: u64, end: impl FnOnce()) -> Vec<i64> {
    let count = Arc::new(AtomicUsize::new(0));
    let running = tokio::spawn(load(config.clone(), commit, count.clone()));
    while count.load(Ordering::Relaxed) < 20 {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_millis(round * 37 % 60)).await;
    end();
    running.await.unwrap()
}

/// Runs the load, ends the server under it, and counts what was lost of what was acknowledged.
async fn lost(config: &Config, commit: Commit, round: u64, end: impl FnOnce()) -> usize {
    let acknowledged = under_load(config, commit, round, end).await;
    missing(config, &acknowledged).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loses_nothing_that_was_acknowledged() {
    let server = Server::start_with(&SETTINGS).unwrap();
    create(&server.config()).await;
    let mut lost_asynchronously = 0;
    for round in 0..24 {
        let commit = if round % 6 == 5 { Commit::Asynchronous } else { Commit::Early };
        let end = || {
            if round % 2 == 0 { server.stop("immediate") } else { server.kill() }.unwrap();
            server.start_again(&SETTINGS).unwrap();
        };
        let lost = lost(&server.config(), commit, round, end).await;
        match commit {
            Commit::Early => assert_eq!(lost, 0, "in round {round}"),
            Commit::Asynchronous => lost_asynchronously += lost,
        }
    }
    assert!(lost_asynchronously > 0, "the crashes lose nothing at all");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let server = retry_tests::power_cut::PowerCut::start(&["wal_writer_delay=10s", "wal_buffers=16MB"]).unwrap();
    create(&server.config()).await;
    for (round, commit) in [Commit::Early, Commit::Asynchronous, Commit::Early, Commit::Early].into_iter().enumerate() {
        let lost = lost(&server.config(), commit, round as u64, || server.cut().unwrap()).await;
        assert_eq!(lost > 0, commit == Commit::Asynchronous, "lost in round {round}: {lost}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_to_a_synchronous_standby_loses_nothing_that_was_acknowledged() {
    for (round, commit) in (0..).zip([Commit::Early, Commit::Asynchronous, Commit::Early]) {
        let primary = Server::start_with(&SETTINGS).unwrap();
        create(&primary.config()).await;
        let standby = primary.standby(&SETTINGS).unwrap();
        let admin = connect(&primary.config()).await;
        admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let acknowledged = under_load(&primary.config(), commit, round, || primary.kill().unwrap()).await;
        promote(&standby.config()).await;
        let lost = missing(&standby.config(), &acknowledged).await;
        assert_eq!(lost > 0, commit == Commit::Asynchronous, "lost in round {round}: {lost}");
    }
}
