//! Metrics for Prometheus: how many calls were retried, why, and what it cost.
//!
//! With the feature `metrics`, the runtime records counters and histograms with the recorder that the program installs.
//! Here that is the exporter of the crate `metrics-exporter-prometheus`, with its HTTP listener. The transfers run at the
//! same time and want the same rows, so some are retried; one fails, because the payer has too little.
//!
//! Prints (… is a number that varies):
//!
//! ```text
//! transactional_attempts_total{function="transfer"} …
//! transactional_call_seconds_count{function="transfer"} 201
//! transactional_calls_total{function="transfer",result="body_error"} 1
//! transactional_calls_total{function="transfer",result="ok"} 200
//! transactional_retries_total{function="transfer",class="serialization"} …
//! ```

use std::net::{Ipv4Addr, TcpListener};

use metrics_exporter_prometheus::PrometheusBuilder;
use retry_runtime::{Transaction, transactional};
use retry_tests::Database;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

#[transactional(name = "transfer", isolation = "serializable", deadlock_retries = 1_000)]
async fn transfer(tx: &mut Transaction<'_>, from: i64, to: i64, cents: i64) -> anyhow::Result<()> {
    let balance: i64 = tx.query_one("SELECT cents FROM accounts WHERE id = $1", &[&from]).await?.get(0);
    anyhow::ensure!(balance >= cents, "insufficient funds");
    tx.execute("UPDATE accounts SET cents = cents - $1 WHERE id = $2", &[&cents, &from]).await?;
    tx.execute("UPDATE accounts SET cents = cents + $1 WHERE id = $2", &[&cents, &to]).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // A service has a fixed port. This program takes one that is free.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let buckets = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];
    PrometheusBuilder::new().with_http_listener(address).set_buckets(&buckets)?.install()?;
    retry_runtime::describe_metrics();

    let database = Database::create().await;
    database.accounts(4, 1_000).await;
    let pool = database.pool(8);
    let mut transfers = JoinSet::new();
    for number in 0..200 {
        let pool = pool.clone();
        transfers.spawn(async move { transfer(&pool, number % 4 + 1, (number + 1) % 4 + 1, 1).await });
    }
    transfers.join_all().await.into_iter().collect::<anyhow::Result<()>>()?;
    transfer(&pool, 1, 2, 5_000).await.expect_err("5000 is more than 1000");

    // What Prometheus does at each scrape.
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut page = String::new();
    connection.read_to_string(&mut page).await?;
    let shown = ["_attempts_total{", "_call_seconds_count{", "_calls_total{", "_retries_total{"];
    let mut lines: Vec<_> = page.lines().filter(|line| shown.iter().any(|name| line.contains(name))).collect();
    lines.sort_unstable();
    // If two of the transfers have deadlocked, the class `deadlock` has a line too.
    lines.retain(|line| !line.contains("deadlock"));
    println!("{}", lines.join("\n"));
    Ok(())
}
