//! Listeners that panic: a call goes on, and its connection stays clean.
#![allow(missing_docs)]

use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Recorder, SharedString, Unit};
use retry_runtime::{Error, Transaction, transactional};
use retry_tests::calls::dropped_after;
use retry_tests::{Database, FAULT_TABLES};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// The methods in which a subscriber or a recorder panics, one after the other.
const METHODS: [&str; 9] =
    ["enabled", "new_span", "record", "event", "enter", "exit", "try_close", "register_counter", "register_histogram"];

/// Which of them panics.
static PANICS_IN: AtomicUsize = AtomicUsize::new(usize::MAX);
/// How often it did.
static PANICS: AtomicUsize = AtomicUsize::new(0);

const MESSAGE: &str = "the listener panics";

struct Panicking;

fn called(method: &str) {
    if METHODS.get(PANICS_IN.load(Ordering::SeqCst)) == Some(&method) {
        PANICS.fetch_add(1, Ordering::SeqCst);
        std::panic::panic_any(MESSAGE);
    }
}

impl Subscriber for Panicking {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        if metadata.target() == "retry_runtime" {
            tracing::subscriber::Interest::sometimes() // so that `enabled` is asked each time
        } else {
            tracing::subscriber::Interest::never()
        }
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        called("enabled");
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        called("new_span");
        Id::from_u64(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {
        called("record");
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        called("event");
    }

    fn enter(&self, _: &Id) {
        called("enter");
    }

    fn exit(&self, _: &Id) {
        called("exit");
    }

    fn try_close(&self, _: Id) -> bool {
        called("try_close");
        true
    }
}

impl Recorder for Panicking {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &metrics::Metadata<'_>) -> Counter {
        called("register_counter");
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &metrics::Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &metrics::Metadata<'_>) -> Histogram {
        called("register_histogram");
        Histogram::noop()
    }
}

/// Before the harness sets a subscriber. The panics of the listener are not printed.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(Panicking).unwrap();
        metrics::set_global_recorder(Panicking).expect("it is the first");
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref() != Some(&MESSAGE) {
                hook(info);
            }
        }));
    });
}

#[transactional(max_delay = "2ms")]
async fn retried(tx: &mut Transaction<'_>, hangs: bool) -> Result<u32, Error> {
    tx.execute("INSERT INTO done VALUES ($1)", &[&i32::try_from(tx.attempt()).expect("it is small")]).await?;
    if tx.attempt() == 1 {
        tx.batch_execute("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$").await?;
    }
    if hangs {
        std::future::pending::<()>().await;
    }
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_panic_in_a_subscriber_or_a_recorder_changes_no_outcome() {
    listen();
    let db = Database::create().await;
    db.setup(FAULT_TABLES).await;
    let pool = db.pool(1);
    for (index, method) in METHODS.into_iter().enumerate() {
        PANICS.store(0, Ordering::SeqCst);
        PANICS_IN.store(index, Ordering::SeqCst);
        assert_eq!(retried(&pool, false).await.unwrap(), 2, "{method}");
        assert!(!dropped_after(retried(&pool, true), 30).await, "{method}");
        PANICS_IN.store(usize::MAX, Ordering::SeqCst);
        assert!(PANICS.load(Ordering::SeqCst) > 0, "{method} was not called");
        let client = pool.get().await.unwrap();
        let row = client.query_one("SELECT count(*), txid_current_if_assigned() IS NULL FROM done", &[]).await.unwrap();
        let (committed, clean) = (row.get::<_, i64>(0), row.get::<_, bool>(1));
        assert_eq!((committed, clean), (i64::try_from(index).unwrap() + 1, true), "{method}");
    }
}
