//! `RETRY_FAULTS`: the suite runs in a process with the variable.

use std::fs;
use std::path::Path;
use std::process::Command;

use retry_tests::Database;
use tokio_postgres::config::Host;

/// Where the suite finds its server.
fn url(db: &Database) -> String {
    let config = db.config();
    let host = match &config.get_hosts()[0] {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    let password = config.get_password().map(|password| String::from_utf8_lossy(password)).unwrap_or_default();
    let port = config.get_ports().first().unwrap_or(&5432);
    let (user, name) = (config.get_user().unwrap(), config.get_dbname().unwrap());
    format!("host='{host}' port={port} user='{user}' password='{password}' dbname={name}")
}

/// Runs a test of the suite with `RETRY_FAULTS`. Returns whether it passed, in which attempts its calls ended, and what it
/// printed.
async fn run(test: &str, faults: &str) -> (bool, Vec<u32>, String) {
    run_with_report(test, faults, None).await
}

async fn run_with_report(test: &str, faults: &str, report: Option<&Path>) -> (bool, Vec<u32>, String) {
    let db = Database::create().await;
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("suite::{test}"), "--nocapture"])
        .env("RETRY_FAULTS", faults)
        .env("DATABASE_URL", url(&db))
        .env("RETRY_FAULTS_REPORT", report.unwrap_or(Path::new("")))
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("running 1 test"), "{printed}");
    let attempts = printed.lines().filter_map(|line| line.split_once(" in attempt ")?.1.parse().ok()).collect();
    (output.status.success(), attempts, printed + &String::from_utf8(output.stderr).unwrap())
}

async fn assert_passes(test: &str, faults: &str, attempts: &[u32]) {
    let (passed, found, printed) = run(test, faults).await;
    assert!(passed, "{printed}");
    assert_eq!(found, attempts, "{printed}");
}

async fn assert_fails(test: &str, faults: &str, message: &str) {
    let (passed, _, printed) = run(test, faults).await;
    assert!(!passed && printed.contains(message), "{printed}");
}

#[tokio::test]
async fn every_call_conflicts_once() {
    assert_passes("transfers_are_made", "", &[1, 1, 1]).await;
    assert_passes("transfers_are_made", "conflict-once", &[2, 2, 2]).await;
    assert_passes("a_transfer_without_retries_is_made", "conflict-once", &[1]).await;
    assert_passes("a_mail_is_sent", "", &[]).await;
    assert_fails("a_mail_is_sent", "conflict-once", "left: 2\n right: 1").await;
    assert_passes("a_mail_is_sent_after_the_commit", "conflict-once", &[]).await;
}

#[tokio::test]
async fn every_commit_is_lost_once() {
    assert_passes("transfers_are_made", "commit-lost-once", &[1, 1, 2]).await;
    assert_passes("a_transfer_with_a_token_is_made", "commit-lost-once", &[2]).await;
    assert_passes("a_transfer_is_applied_once", "conflict-once", &[]).await;
    assert_fails("a_transfer_is_applied_once", "commit-lost-once", "left: 120\n right: 110").await;
}

#[tokio::test]
async fn every_third_attempt_conflicts() {
    assert_passes("transfers_are_made", "every-third", &[1, 1, 2]).await;
}

#[tokio::test]
async fn a_seed_replays() {
    let mut found = Vec::new();
    for faults in ["chaos:7", "chaos:7", "chaos:8"] {
        let (passed, attempts, printed) = run("many_transfers_are_made", faults).await;
        assert!(passed && attempts.len() == 20, "{printed}");
        found.push(attempts);
    }
    assert_eq!(found[0], found[1]);
    assert_ne!(found[0], found[2]);
    assert!((1..=3).all(|attempt| found[0].contains(&attempt)), "{found:?}");
}

#[tokio::test]
async fn an_unknown_value_is_refused() {
    assert_fails("transfers_are_made", "conflict", "RETRY_FAULTS=\"conflict\": expected conflict-once").await;
}

#[tokio::test]
async fn processes_share_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("report");
    let (passed, _, printed) =
        run_with_report("a_transfer_without_retries_is_made", "conflict-once", Some(&folder)).await;
    assert!(passed, "{printed}");
    let read = |name| fs::read_to_string(folder.join(name)).unwrap();
    let without_faults = "without faults: testing::suite::transfer, testing::suite::transfer_once\n";
    assert!(read("report.txt").ends_with(without_faults), "{}", read("report.txt"));
    for (test, faults) in
        [("a_transfer_with_a_token_is_made", "conflict-once"), ("a_transfer_with_a_token_is_made", "commit-lost-once")]
    {
        let (passed, _, printed) = run_with_report(test, faults, Some(&folder)).await;
        assert!(passed, "{printed}");
    }
    let all = ["commit unknown, committed", "commit unknown, not committed", "serialization failure"];
    let json: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
    // A nested call meets the faults of the outermost one.
    let functions = serde_json::json!({
        "testing::suite::transfer": all,
        "testing::suite::transfer_once": [],
        "testing::suite::transfer_with_token": all,
    });
    assert_eq!(json, functions);
    assert!(read("report.txt").ends_with("without faults: testing::suite::transfer_once\n"), "{}", read("report.txt"));
    assert_eq!(read("facts.jsonl").lines().count(), 12, "each process adds each fact once: {}", read("facts.jsonl"));
}
