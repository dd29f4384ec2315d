//! A web service with axum: a pool, a deadline for each request, an HTTP status for each error, and graceful shutdown.
//!
//! `service.rs` has the service. A middleware wraps each request in `with_deadline`, and the error type decides the
//! status: 422 if the client is at fault, 503 if it may try again, 504 after the deadline. `main` sends requests from 8
//! concurrent clients, then stops the service during a request. That request is still answered; its deadline also
//! limits how long the stop takes.
//!
//! Prints:
//!
//! ```text
//! 160 transfers: 200 OK
//! 40 transfers: 422 Unprocessable Entity (insufficient funds)
//! from a locked account: 504 Gateway Timeout (the deadline passed while running the body)
//! during the shutdown: 200 OK
//! after the shutdown: no connection
//! the total of all accounts: 400 cents
//! ```

mod service;

use std::collections::BTreeMap;
use std::error::Error;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use retry_tests::Database;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Sends a request to the service.
#[derive(Clone)]
struct Http {
    client: Client<HttpConnector, Body>,
    url: String,
}

impl Http {
    /// The status of the response, and its text.
    async fn transfer(&self, from: i64, to: i64, timeout_ms: u32) -> Result<String, Box<dyn Error + Send + Sync>> {
        let request = Request::post(format!("{}/transfer/{from}/{to}/1", self.url)).header("timeout-ms", timeout_ms);
        let response = self.client.request(request.body(Body::empty())?).await?;
        let status = response.status();
        let text = to_bytes(Body::new(response.into_body()), 1_000).await?;
        Ok(if text.is_empty() { status.to_string() } else { format!("{status} ({})", String::from_utf8_lossy(&text)) })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let database = Database::create().await;
    database.accounts(4, 100).await;
    database.setup("INSERT INTO accounts VALUES (5, 0)").await;
    let pool = database.pool(4);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>(); // A deployed service waits for `tokio::signal` instead.
    let shutdown = async { stopped.await.unwrap_or_default() };
    let server = axum::serve(listener, service::router(pool.clone())).with_graceful_shutdown(shutdown);
    let server = tokio::spawn(server.into_future());

    let http = Http { client: Client::builder(TokioExecutor::new()).build_http(), url };
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let http = http.clone();
        clients.spawn(async move {
            let mut responses = Vec::new();
            for from in (client..client + 25).map(|number| number % 5 + 1) {
                responses.push(http.transfer(from, from % 4 + 1, 30_000).await?);
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(responses)
        });
    }
    let mut counts = BTreeMap::new();
    for responses in clients.join_all().await {
        responses?.into_iter().for_each(|response| *counts.entry(response).or_insert(0) += 1);
    }
    for (response, count) in counts {
        println!("{count} transfers: {response}");
    }

    let (mut one, mut other) = (database.client().await, database.client().await);
    let first = one.transaction().await?;
    first.execute("SELECT FROM accounts WHERE id = 1 FOR UPDATE", &[]).await?;
    println!("from a locked account: {}", http.transfer(1, 2, 1_000).await?);

    let third = other.transaction().await?;
    third.execute("SELECT FROM accounts WHERE id = 3 FOR UPDATE", &[]).await?;
    let pid: i32 = third.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let in_flight = tokio::spawn({
        let http = http.clone();
        async move { http.transfer(3, 4, 30_000).await }
    });
    let waits = format!("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE {pid} = ANY (pg_blocking_pids(pid)))");
    // Until the request waits for the row.
    while !database.value::<bool>(&waits).await {}
    let _ = stop.send(());
    third.rollback().await?;
    println!("during the shutdown: {}", in_flight.await??);
    server.await??;
    let late = http.transfer(3, 4, 30_000).await;
    println!("after the shutdown: {}", late.unwrap_or_else(|_| "no connection".to_owned()));
    pool.close();

    println!(
        "the total of all accounts: {} cents",
        database.value::<i64>("SELECT sum(cents)::bigint FROM accounts").await
    );
    Ok(())
}
