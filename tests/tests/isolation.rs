//! The isolation that transactional functions give under random faults, checked by the rules of Elle. `scripts/soak
//! isolation` runs the same at length.
#![allow(missing_docs)]

use retry_tests::isolation::{Level, Options, Report, run};

async fn run_at(level: Level, transactions: i64) -> Report {
    let report = run(&Options { level, transactions, workers: 12, seed: 1 }).await.unwrap();
    assert!(report.wrong().is_empty(), "{}\n\n{report}", report.wrong().join("\n\n"));
    // An idle run proves nothing.
    for (what, per_thousand) in [
        ("ok", 800),
        ("definite error", 10),
        ("dropped", 5),
        ("unknown", 1),
        ("retry", 20),
        ("swallowed error", 1),
        ("append undone by a savepoint", 50),
    ] {
        let least = usize::try_from(transactions).unwrap() * per_thousand / 1_000;
        assert!(report.count(what) >= least, "too few: {what}\n{report}");
    }
    assert!(report.faults() >= usize::try_from(transactions).unwrap() / 100, "too few faults\n{report}");
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn serializable_functions_show_no_anomaly() {
    run_at(Level::Serializable, 100_000).await;
}

/// The check sees anomalies if there are any. None of them is one that `read committed` forbids.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn read_committed_functions_show_the_anomalies_that_it_allows() {
    let report = run_at(Level::ReadCommitted, 10_000).await;
    for anomaly in ["G-single-item", "G2-item", "lost-update"] {
        assert!(report.allowed().any(|allowed| allowed == anomaly), "no {anomaly}\n{report}");
    }
}
