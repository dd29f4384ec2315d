//! Traces for OpenTelemetry: one span for the call, and one for each attempt.
//!
//! The runtime's spans are those of the crate `tracing`, and follow OpenTelemetry's conventions for database clients. The
//! crate `tracing-opentelemetry` turns them into OpenTelemetry's, and an exporter sends them to a collector. This program's
//! exporter prints them. Another session changes the row after it is read, so the first attempt fails.
//!
//! Prints:
//!
//! ```text
//! read (internal) in attempt
//! attempt (internal) in increment: error.type=40001 transactional.attempt=1 transactional.class=serialization
//! read (internal) in attempt
//! attempt (internal) in increment: transactional.attempt=2
//! increment (client): db.system.name=postgresql transactional.attempts=2 transactional.outcome=ok
//! counter: 11
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use tokio_postgres::Client;
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

/// Adds 1 to the counter. In the first attempt, `rival` adds 10 after the counter is read.
#[transactional(name = "increment", isolation = "repeatable read")]
async fn increment(tx: &mut Transaction<'_>, rival: &Client) -> Result<i64, Error> {
    let read = tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]);
    let count: i64 = read.instrument(tracing::info_span!("read")).await?.get(0);
    if tx.attempt() == 1 {
        rival.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await?;
    }
    tx.execute("UPDATE accounts SET cents = $1 WHERE id = 1", &[&(count + 1)]).await?;
    Ok(count + 1)
}

/// Prints each span, in order of their ends. A span ends before the one that it is in.
#[derive(Debug, Default)]
struct Print {
    /// Those whose parents have not ended.
    waiting: Mutex<HashMap<SpanId, Vec<String>>>,
}

impl SpanExporter for Print {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for span in spans {
            let shown = ["db.system.name", "error.type"];
            let own =
                ["transactional.attempt", "transactional.attempts", "transactional.class", "transactional.outcome"];
            let mut attributes: Vec<_> = (span.attributes.iter())
                .filter(|attribute| shown.iter().chain(&own).any(|name| *name == attribute.key.as_str()))
                .map(|attribute| format!("{}={}", attribute.key, attribute.value))
                .collect();
            attributes.sort_unstable();
            let colon = if attributes.is_empty() { "" } else { ": " };
            let kind = format!("{:?}", span.span_kind).to_lowercase();
            let mut lines = waiting.remove(&span.span_context.span_id()).unwrap_or_default();
            for line in &mut lines {
                *line = line.replace("(in)", &format!("in {}", span.name));
            }
            let place = if span.parent_span_id == SpanId::INVALID { "" } else { " (in)" };
            lines.push(format!("{} ({kind}){place}{colon}{}", span.name, attributes.join(" ")));
            if span.parent_span_id == SpanId::INVALID {
                println!("{}", lines.join("\n"));
            } else {
                waiting.entry(span.parent_span_id).or_default().append(&mut lines);
            }
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let provider = SdkTracerProvider::builder().with_simple_exporter(Print::default()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("example"));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).expect("it is the first");

    let database = Database::create().await;
    database.accounts(1, 0).await;
    let count = increment(&database.pool(1), &database.client().await).await?;
    println!("counter: {count}");
    Ok(())
}
