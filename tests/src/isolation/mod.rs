//! Isolation: many `#[transactional]` functions append to lists and read them, under random faults on a real server. The
//! history of the run is then checked for anomalies that the isolation level forbids, by the rules of Elle.

mod body;
mod functions;
mod history;
mod plan;
mod report;

use std::io;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use deadpool_postgres::Pool;
use futures_util::future::join_all;
use tokio_postgres::{Client, Error};

pub use self::report::Report;

use self::body::{Call, Log};
use self::history::{Recorder, anomalies};
use self::plan::{Plan, keys};
use crate::proxy::Proxy;
use crate::soak::HANG_TIMEOUT;
use crate::soak::call::{Outcome, with_patience};
use crate::soak::faults::{Faults, VICTIM};
use crate::{Server, connect};

/// The isolation level of all transactions of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// No anomaly is allowed.
    Serializable,
    /// Some anomalies are allowed. They show that the check can see.
    ReadCommitted,
}

impl Level {
    /// The model that the history must satisfy.
    ///
    /// PostgreSQL promises serializability and not strict serializability, which also keeps the real-time order: a call
    /// that begins after another has returned comes after it. A single primary keeps it nevertheless. A snapshot holds all
    /// that was committed before it, so real-time order is one more dependency along which a commit comes before a
    /// beginning. PostgreSQL aborts one transaction of each cycle of such dependencies. The stricter model also shows
    /// commits that were acknowledged but did not happen.
    fn model(self) -> &'static str {
        match self {
            Self::Serializable => "strict-serializable",
            Self::ReadCommitted => "strong-read-committed",
        }
    }
}

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The isolation level of all transactions.
    pub level: Level,
    /// Number of transactions.
    pub transactions: i64,
    /// Number of concurrent workers.
    pub workers: u16,
    /// Seed of the random choices.
    pub seed: u64,
}

/// Settings of the server. A sequential scan would conflict with every writer under SERIALIZABLE.
const SETTINGS: [&str; 6] = [
    "enable_seqscan=off",
    "enable_bitmapscan=off",
    "max_pred_locks_per_transaction=512",
    "deadlock_timeout=4ms",
    "autovacuum=off",
    "log_min_messages=fatal",
];

const TABLE: &str = "CREATE UNLOGGED TABLE lists (key int PRIMARY KEY, list int[] NOT NULL) WITH (fillfactor = 20)";

/// Runs the transactions on a throwaway server, and checks their history.
///
/// # Errors
/// If the server does not start, or the database cannot be prepared or read.
pub async fn run(options: &Options) -> io::Result<Report> {
    let server = Server::start_with(&SETTINGS)?;
    let config = server.config();
    let observer = connect(&config).await;
    prepare(&observer, options).await.map_err(io::Error::other)?;
    let proxy = Proxy::start(&config).await?;
    let (mut direct, mut proxied) = (config.clone(), proxy.config().clone());
    for config in [&mut direct, &mut proxied] {
        // Do not wait for rows that a silent connection has locked.
        config.application_name(VICTIM).options("-c lock_timeout=250ms");
    }
    let workers = usize::from(options.workers);
    let faults = Arc::new(Faults::new());
    proxy.inject(faults.of_messages(options.seed));
    let worker = Worker {
        options: *options,
        direct: crate::pool(&direct, workers),
        proxied: crate::pool(&proxied, workers.div_ceil(2)),
        next: Arc::new(AtomicI64::new(1)),
        next_value: Arc::new(AtomicI32::new(1)),
        recorder: Arc::default(),
    };
    let (next, recorder) = (worker.next.clone(), worker.recorder.clone());
    let work = async {
        let ended = join_all((0..workers).map(|_| tokio::spawn(worker.clone().work()))).await;
        faults.end();
        drop(worker);
        ended
    };
    let began = Instant::now();
    let (ended, ()) = tokio::join!(work, faults.of_backends(&config, options.seed.wrapping_add(1), &next, Vec::new()));
    for ended in ended {
        ended.map_err(io::Error::other)?;
    }
    let elapsed = began.elapsed();
    let lists = lists(&observer).await.map_err(io::Error::other)?;
    let recorder = std::mem::take(&mut *recorder.lock().unwrap_or_else(PoisonError::into_inner));
    let counts = recorder.counts.clone();
    let (history, wrong) = recorder.finish(&lists, options.transactions + 1);
    let began = Instant::now();
    let mut report = Report::new(options, counts, faults.counts(), wrong, elapsed);
    report.add(anomalies(&history, options.level.model()));
    if options.level == Level::ReadCommitted {
        report.allow(anomalies(&history, Level::Serializable.model()));
    }
    report.checked_in = began.elapsed();
    Ok(report)
}

async fn prepare(observer: &Client, options: &Options) -> Result<(), Error> {
    observer.batch_execute(TABLE).await?;
    let last = keys(options.transactions);
    let insert = format!("INSERT INTO lists SELECT key, '{{}}' FROM generate_series(0, {last}) AS key; ANALYZE lists");
    observer.batch_execute(&insert).await?;
    retry_runtime::install(observer).await
}

/// What the lists hold at the end.
async fn lists(observer: &Client) -> Result<Vec<(i32, Vec<i32>)>, Error> {
    let rows = observer.query("SELECT key, list FROM lists ORDER BY key", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Runs one transaction after another.
#[derive(Clone)]
struct Worker {
    options: Options,
    direct: Pool,
    proxied: Pool,
    /// The number of the next transaction.
    next: Arc<AtomicI64>,
    next_value: Arc<AtomicI32>,
    recorder: Arc<Mutex<Recorder>>,
}

impl Worker {
    async fn work(self) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number > self.options.transactions {
                return;
            }
            self.transaction(number).await;
        }
    }

    async fn transaction(&self, number: i64) {
        let log = Arc::new(Log::default());
        let plan = Plan::of(self.options.level, self.options.seed, number);
        let call = Call { plan, next_value: self.next_value.clone(), log: log.clone() };
        let pool = if call.plan.proxied { &self.proxied } else { &self.direct };
        self.record(|recorder| recorder.begin(number));
        let work = with_patience(call.plan.patience, (call.plan.function.run)(pool, &call));
        let outcome = match tokio::time::timeout(HANG_TIMEOUT, work).await {
            Ok(result) => Outcome::of(result),
            Err(_) => Outcome::Hung,
        };
        let log = std::mem::take(&mut *log.lock());
        self.record(|recorder| recorder.end(number, &outcome, log));
    }

    fn record(&self, record: impl FnOnce(&mut Recorder)) {
        record(&mut self.recorder.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
