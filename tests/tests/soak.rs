//! Promises 1, 3, 5 and 6 under random faults: a short run of the soak test, which `scripts/soak` runs at length.
#![allow(missing_docs)]

use std::time::Duration;

use retry_tests::soak::{Options, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_result_agrees_with_the_database() {
    let options = Options { calls: 1_000, callers: 16, seed: 1, limit: Duration::from_secs(300) };
    let report = run(&options).await.unwrap();
    assert_eq!(report.calls(), 1_000);
    assert!(report.wrong().is_empty(), "{}\n\n{report}", report.wrong().join("\n\n"));
    for outcome in ["ok", "definite error", "dropped"] {
        assert!(report.outcome(outcome) > 0, "{report}");
    }
    assert!(report.faults() > 20, "{report}");
}
