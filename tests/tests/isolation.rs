//! The isolation that transactional functions give under random faults, checked by the rules of Elle. `scripts/soak
//! isolation` runs the same at length.
#![allow(missing_docs)]

use retry_tests::isolation::{Level, Options, Report, run};

async fn run_at(level: Level, transactions: i64) -> Report {
    let report = run(&Options { level, transactions, workers: 12, seed: 1 }).await.unwrap();
    assert!(report.wrong().is_empty(), "{}\n\n{report}", report.wrong().join("\n\n"));
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn serializable_functions_show_no_anomaly() {
    const TRANSACTIONS: usize = 100_000;
    let report = run_at(Level::Serializable, TRANSACTIONS.try_into().unwrap()).await;
    // An idle run proves nothing.
    for (what, per_thousand) in [
        ("ok", 800),
        ("definite error", 10),
        ("dropped", 5),
        ("unknown", 1),
        ("retry", 50),
        ("swallowed error", 3),
        ("append undone by a savepoint", 50),
    ] {
        assert!(report.count(what) >= TRANSACTIONS * per_thousand / 1_000, "too few: {what}\n{report}");
    }
    assert!(report.faults() >= TRANSACTIONS / 125, "too few faults\n{report}");
}

/// The check sees anomalies if there are any. None of them is one that `read committed` forbids.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn read_committed_functions_show_the_anomalies_that_it_allows() {
    let report = run_at(Level::ReadCommitted, 10_000).await;
    for anomaly in ["G-single-item", "lost-update"] {
        assert!(report.allowed().any(|allowed| allowed == anomaly), "no {anomaly}\n{report}");
    }
}
