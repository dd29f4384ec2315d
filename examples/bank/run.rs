//! One run: workers make the transfers, then the money and the ledger are checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use deadpool_postgres::Pool;
use hdrhistogram::Histogram;
use retry_runtime::{Class, classify};
use tokio::select;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::calls::{Order, Workload, transfer};
use crate::database::Database;
use crate::progress::Progress;
use crate::tally::Tally;

/// What all runs have in common.
pub(crate) struct Bank<'a> {
    pub(crate) database: &'a Database,
    pub(crate) pool: Pool,
    pub(crate) tally: Arc<Tally>,
    pub(crate) workers: usize,
    pub(crate) accounts: i64,
    /// Each run makes the same transfers.
    pub(crate) orders: Arc<[Order]>,
    /// Turns true on Ctrl-C.
    pub(crate) interrupted: watch::Receiver<bool>,
}

/// The result of a run.
pub(crate) struct Run {
    pub(crate) workload: &'static str,
    /// Whether and how its calls were retried.
    pub(crate) retries: &'static str,
    pub(crate) calls: Calls,
    pub(crate) retried: u64,
    pub(crate) elapsed: Duration,
    /// Mismatches found in the balances.
    pub(crate) balance_faults: Vec<String>,
    /// Mismatches between the ledger and what the calls returned.
    pub(crate) ledger_faults: Vec<String>,
}

/// The calls of one worker, or of all of them.
pub(crate) struct Calls {
    /// Those that returned `Ok`.
    pub(crate) committed: Vec<i64>,
    /// Those that returned an error. Nothing of them is committed.
    pub(crate) failed: Vec<i64>,
    /// How many returned that the outcome of their commit is unknown.
    pub(crate) unknown: usize,
    /// How long the committed ones took, in microseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Calls {
    pub(crate) fn none() -> Self {
        // Up to a minute, to three digits.
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid bounds");
        Self { committed: Vec::new(), failed: Vec::new(), unknown: 0, latency }
    }

    /// Adds a call that returned `Ok`.
    pub(crate) fn commit(&mut self, order: Order, time: Duration) {
        self.latency.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        self.committed.push(order.call);
    }

    fn add(&mut self, other: &Self) {
        self.committed.extend(&other.committed);
        self.failed.extend(&other.failed);
        self.unknown += other.unknown;
        self.latency += &other.latency;
    }
}

impl Bank<'_> {
    /// Makes all transfers on fresh tables, or as many as there is time for until Ctrl-C.
    pub(crate) async fn run(&self, workload: Workload, retries: bool) -> anyhow::Result<Run> {
        self.database.reset(self.accounts).await?;
        self.tally.reset();
        let next = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..self.workers {
            let worker = Worker {
                pool: self.pool.clone(),
                tally: self.tally.clone(),
                workload,
                retries,
                orders: self.orders.clone(),
                next: next.clone(),
                interrupted: self.interrupted.clone(),
            };
            workers.spawn(worker.work());
        }
        let calls = self.watch(workers, retries).await?;
        self.check(workload.name(), if retries { "yes" } else { "no" }, calls, started.elapsed()).await
    }

    /// Compares the result of a run with the tables.
    pub(crate) async fn check(
        &self,
        workload: &'static str,
        retries: &'static str,
        calls: Calls,
        elapsed: Duration,
    ) -> anyhow::Result<Run> {
        let balance_faults = self.balance_faults().await?;
        let ledger_faults = self.ledger_faults(&calls).await?;
        Ok(Run { workload, retries, calls, retried: self.tally.retried(), elapsed, balance_faults, ledger_faults })
    }

    /// Shows the progress, and collects the workers' calls.
    async fn watch(&self, mut workers: Workers, retries: bool) -> anyhow::Result<Calls> {
        let label = if retries { "with retries" } else { "without retries" };
        let mut progress = Progress::start(label, self.orders.len(), &self.tally);
        let mut tick = interval(Duration::from_millis(100));
        let mut calls = Calls::none();
        loop {
            select! {
                _ = tick.tick() => progress.update(),
                worker = workers.join_next() => match worker {
                    Some(worker) => calls.add(&worker??),
                    None => break,
                },
            }
        }
        progress.finish(*self.interrupted.borrow());
        Ok(calls)
    }

    async fn balance_faults(&self) -> anyhow::Result<Vec<String>> {
        Ok(match self.database.surplus().await? {
            0 => vec![],
            surplus => vec![format!("the total has changed by {surplus:+} cents")],
        })
    }

    async fn ledger_faults(&self, calls: &Calls) -> anyhow::Result<Vec<String>> {
        let ledger = self.database.ledger().await?;
        let missing = calls.committed.iter().filter(|call| !ledger.contains_key(call)).count();
        let unexpected = calls.failed.iter().filter(|call| ledger.contains_key(call)).count();
        let repeated = ledger.values().filter(|times| **times > 1).count();
        let faults = [
            (missing, "that returned Ok and are not in the ledger"),
            (unexpected, "that failed and are in the ledger"),
            (repeated, "that are in the ledger more than once"),
        ];
        Ok(faults
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("calls {what}: {count}"))
            .collect())
    }
}

type Workers = JoinSet<anyhow::Result<Calls>>;

struct Worker {
    pool: Pool,
    tally: Arc<Tally>,
    workload: Workload,
    retries: bool,
    orders: Arc<[Order]>,
    /// The index of the next transfer that no worker has taken.
    next: Arc<AtomicUsize>,
    interrupted: watch::Receiver<bool>,
}

impl Worker {
    /// Makes transfers until none is left. An error other than a conflict ends the demo.
    async fn work(mut self) -> anyhow::Result<Calls> {
        let mut calls = Calls::none();
        while let Some(&order) = self.orders.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let started = Instant::now();
            let result = select! {
                result = transfer(&self.pool, self.workload, self.retries, order) => result,
                // Dropping a call is safe: it is rolled back, unless its COMMIT was already sent.
                _ = self.interrupted.wait_for(|interrupted| *interrupted) => break,
            };
            match result {
                Ok(()) => {
                    calls.commit(order, started.elapsed());
                    self.tally.committed.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => match classify(&error) {
                    Some(Class::Serialization | Class::Deadlock) => calls.failed.push(order.call),
                    _ => return Err(error).context("a transfer failed, and not because of a conflict"),
                },
            }
        }
        Ok(calls)
    }
}
