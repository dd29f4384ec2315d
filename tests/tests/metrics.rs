//! The feature `metrics`: each row of the table in `operating.md`, scraped over HTTP as Prometheus does.
#![allow(missing_docs)]

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use retry_runtime::{Error, Source, Transaction, WithBreaker, WithBudget, transactional};
use retry_tests::calls::dropped_after;
use retry_tests::{Database, FAULT_TABLES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Runs the statement in each attempt up to this one.
#[transactional(name = "f", deadlock_retries = 1, base_delay = "250us", max_delay = "1ms", queue_by = ())]
async fn runs(tx: &mut Transaction<'_>, sql: &str, until_attempt: u32) -> Result<(), Error> {
    if tx.attempt() <= until_attempt {
        tx.batch_execute(sql).await?;
    }
    Ok(())
}

#[transactional(name = "f", deadlock_retries = 0)]
async fn ignores(tx: &mut Transaction<'_>) -> Result<(), Error> {
    let _ = tx.batch_execute("SELECT 1 / 0").await;
    Ok(())
}

#[transactional(name = "f")]
async fn hangs(_tx: &mut Transaction<'_>) -> Result<(), Error> {
    std::future::pending().await
}

fn raise(sqlstate: &str) -> String {
    format!("DO $do$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $do$")
}

async fn scrape(address: std::net::SocketAddr) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    connection.read_to_string(&mut page).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK"), "{page}");
    page
}

#[tokio::test]
async fn every_metric_of_the_table_can_be_scraped() {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    PrometheusBuilder::new().with_http_listener(address).set_buckets(&[0.1, 1.0]).unwrap().install().unwrap();
    retry_runtime::describe_metrics();
    let db = Database::create().await;
    db.setup(FAULT_TABLES).await;
    let pool = db.pool(2);

    runs(&pool, &raise("40001"), 1).await.unwrap();
    runs(&pool, &raise("40P01"), 2).await.unwrap_err();
    runs(&pool, "SELECT pg_terminate_backend(pg_backend_pid())", 1).await.unwrap();
    let unknown = format!("INSERT INTO at_commit VALUES ($at_commit${}$at_commit$)", raise("40003"));
    assert!(runs(&pool, &unknown, 1).await.unwrap_err().is_unknown());
    ignores(&pool).await.unwrap_err();
    assert!(!dropped_after(hangs(&pool), 20).await);
    let (one, other) = tokio::join!(runs(&pool, "", 0), runs(&pool, "", 0));
    one.and(other).unwrap();
    runs(Source::from(&pool).named("another").deadline(Duration::ZERO), "", 0).await.unwrap_err();
    let budget = WithBudget::new(db.pool(1)).cap(0);
    runs(Source::from(&budget).named("refused"), &raise("40001"), 1).await.unwrap_err();
    let no_server = "host=/nonexistent user=test".parse().unwrap();
    let circuit = WithBreaker::new(retry_tests::pool(&no_server, 1));
    for _ in 0..6 {
        runs(Source::from(&circuit).named("refused").retries(0), "", 0).await.unwrap_err();
    }

    let page = scrape(address).await;
    for line in [
        "transactional_calls_total{function=\"f\",result=\"ok\"} 4",
        "transactional_calls_total{function=\"f\",result=\"body_error\"} 1",
        "transactional_calls_total{function=\"f\",result=\"commit_unknown\"} 1",
        "transactional_calls_total{function=\"f\",result=\"aborted\"} 1",
        "transactional_calls_total{function=\"f\",result=\"dropped\"} 1",
        "transactional_calls_total{function=\"another\",result=\"deadline_exceeded\"} 1",
        "transactional_attempts_total{function=\"f\"} 11",
        "transactional_retries_total{function=\"f\",class=\"serialization\"} 1",
        "transactional_retries_total{function=\"f\",class=\"deadlock\"} 1",
        "transactional_retries_total{function=\"f\",class=\"connection\"} 1",
        "transactional_give_ups_total{function=\"f\",class=\"deadlock\"} 1",
        "transactional_give_ups_total{function=\"refused\",class=\"serialization\"} 1",
        "transactional_refused_retries_total{function=\"refused\",reason=\"retry budget\"} 1",
        "transactional_refused_calls_total{function=\"refused\"} 1",
        "transactional_unanswered_commits_total{function=\"f\"} 1",
        "transactional_ignored_failures_total{function=\"f\"} 1",
        "transactional_queue_waits_total{function=\"f\"} 1",
        "transactional_call_seconds_count{function=\"f\"} 8",
        "transactional_attempt_seconds_count{function=\"f\"} 10",
        "transactional_wasted_seconds_count{function=\"f\"} 3",
        "# TYPE transactional_call_seconds histogram",
        "# HELP transactional_queue_waits_total Attempts that waited in a queue of the function",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    let table = include_str!("../../retry-runtime/docs/operating.md");
    let names = table.lines().filter_map(|line| line.strip_prefix("| `transactional_")?.split('`').next());
    for name in names {
        assert!(page.contains(&format!("\ntransactional_{name}")), "{name} is not in\n{page}");
    }
}
