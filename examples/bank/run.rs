//! One run: workers that call again and again, and the check of what is left in the database.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use deadpool_postgres::Pool;
use hdrhistogram::Histogram;
use retry_runtime::{Class, classify};
use tokio::select;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use crate::calls::{Act, Order, transfer};
use crate::database::Database;
use crate::progress::Progress;
use crate::tally::Tally;

/// Everything that a run needs.
pub(crate) struct Stage<'a> {
    pub(crate) database: &'a Database,
    pub(crate) pool: Pool,
    pub(crate) tally: Arc<Tally>,
    pub(crate) workers: usize,
    pub(crate) accounts: i64,
    pub(crate) length: Duration,
    /// Turns true on Ctrl-C.
    pub(crate) interrupted: watch::Receiver<bool>,
}

/// What came of a run.
pub(crate) struct Run {
    pub(crate) act: Act,
    pub(crate) retries: bool,
    pub(crate) calls: Calls,
    pub(crate) retried: u64,
    pub(crate) elapsed: Duration,
    /// What is wrong with the money.
    pub(crate) balance_faults: Vec<String>,
    /// What is wrong with the ledger.
    pub(crate) ledger_faults: Vec<String>,
}

/// The calls of one worker, or of all of them.
pub(crate) struct Calls {
    /// Those that returned `Ok`.
    pub(crate) committed: Vec<i64>,
    /// Those that lost a conflict for good.
    pub(crate) failed: Vec<i64>,
    /// How long the committed ones took, in microseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Calls {
    fn none() -> Self {
        // Up to a minute, to three digits.
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid bounds");
        Self { committed: Vec::new(), failed: Vec::new(), latency }
    }

    fn add(&mut self, other: &Self) {
        self.committed.extend(&other.committed);
        self.failed.extend(&other.failed);
        self.latency += &other.latency;
    }
}

impl Stage<'_> {
    /// Lets the workers loose on fresh tables until the time is over, or somebody interrupts.
    pub(crate) async fn run(&self, act: Act, retries: bool) -> anyhow::Result<Run> {
        self.database.reset(self.accounts).await?;
        self.tally.reset();
        let (next, stop) = (Arc::new(AtomicI64::new(1)), Arc::new(AtomicBool::new(false)));
        let started = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..self.workers {
            let worker = Worker {
                pool: self.pool.clone(),
                tally: self.tally.clone(),
                accounts: self.accounts,
                act,
                retries,
                next: next.clone(),
                stop: stop.clone(),
                interrupted: self.interrupted.clone(),
            };
            workers.spawn(worker.work());
        }
        let calls = self.watch(workers, retries, &stop).await?;
        let elapsed = started.elapsed();
        let balance_faults = self.balance_faults().await?;
        let ledger_faults = self.ledger_faults(&calls).await?;
        Ok(Run { act, retries, calls, retried: self.tally.retried(), elapsed, balance_faults, ledger_faults })
    }

    /// Shows the progress, stops the workers when it is time, and collects what they did.
    async fn watch(&self, mut workers: Workers, retries: bool, stop: &AtomicBool) -> anyhow::Result<Calls> {
        let label = if retries { "with retries" } else { "without retries" };
        let mut progress = Progress::start(label, self.length, &self.tally);
        let mut interrupted = self.interrupted.clone();
        let (mut end, mut tick) = (pin!(sleep(self.length)), interval(Duration::from_millis(100)));
        let mut calls = Calls::none();
        loop {
            select! {
                () = &mut end => break,
                _ = interrupted.wait_for(|interrupted| *interrupted) => break,
                _ = tick.tick() => progress.update(),
                // Before its time a worker ends only with an error.
                Some(worker) = workers.join_next() => calls.add(&worker??),
            }
        }
        stop.store(true, Ordering::Relaxed);
        while let Some(worker) = workers.join_next().await {
            calls.add(&worker??);
        }
        progress.finish(*interrupted.borrow());
        Ok(calls)
    }

    async fn balance_faults(&self) -> anyhow::Result<Vec<String>> {
        Ok(match self.database.surplus().await? {
            0 => vec![],
            surplus => vec![format!("the accounts hold {surplus:+} cents")],
        })
    }

    async fn ledger_faults(&self, calls: &Calls) -> anyhow::Result<Vec<String>> {
        let ledger = self.database.ledger().await?;
        let faults = [
            (
                calls.committed.iter().filter(|call| !ledger.contains_key(call)).count(),
                "that returned Ok and are not in it",
            ),
            (calls.failed.iter().filter(|call| ledger.contains_key(call)).count(), "that failed and are in it"),
            (ledger.values().filter(|times| **times > 1).count(), "that are in it more than once"),
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
    accounts: i64,
    act: Act,
    retries: bool,
    /// The next call's number.
    next: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    interrupted: watch::Receiver<bool>,
}

impl Worker {
    /// Calls until told to stop. An error that is no lost conflict ends the demo.
    async fn work(mut self) -> anyhow::Result<Calls> {
        let mut calls = Calls::none();
        while !self.stop.load(Ordering::Relaxed) {
            let order = Order::random(self.next.fetch_add(1, Ordering::Relaxed), self.accounts);
            let started = Instant::now();
            let result = select! {
                result = transfer(&self.pool, self.act, self.retries, order) => result,
                // Dropping a call is safe: it is rolled back, unless its COMMIT was on its way.
                _ = self.interrupted.wait_for(|interrupted| *interrupted) => break,
            };
            match result {
                Ok(()) => {
                    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                    calls.latency.saturating_record(micros);
                    calls.committed.push(order.call);
                    self.tally.committed.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => match classify(&error) {
                    Some(Class::Serialization | Class::Deadlock) => calls.failed.push(order.call),
                    _ => return Err(error).context("a transfer failed, and not for a conflict"),
                },
            }
        }
        Ok(calls)
    }
}
