//! Makes the calls of a run in an open loop, and counts them by second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::server::Bottleneck;
use super::strategy::{Pools, Strategy, call};

/// Seconds before the trouble, and of it.
pub(crate) const BEFORE: usize = 3;
pub(crate) const TROUBLE: usize = 5;
/// The callers have recovered if this share of the calls succeeds for so many seconds in a row.
const HEALTHY: (f64, usize) = (0.95, 3);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Calls per second.
    pub(crate) rate: f64,
    /// Connections in the pool.
    pub(crate) connections: usize,
    /// How many times as long a transaction takes during the trouble.
    pub(crate) slowdown: f64,
    /// Seconds after the trouble.
    pub(crate) after: usize,
}

impl Load {
    fn seconds(self) -> usize {
        BEFORE + TROUBLE + self.after
    }
}

/// Counts by second of the run. A call counts in the second of its arrival.
#[derive(Debug)]
pub(crate) struct Counts {
    start: Instant,
    calls: Vec<AtomicU64>,
    successes: Vec<AtomicU64>,
    attempts: Vec<AtomicU64>,
    /// By the breaker, of any second.
    refusals: AtomicU64,
}

impl Counts {
    fn new(seconds: usize) -> Self {
        let zeros = || (0..seconds).map(|_| AtomicU64::new(0)).collect();
        let refusals = AtomicU64::new(0);
        Self { start: Instant::now(), calls: zeros(), successes: zeros(), attempts: zeros(), refusals }
    }

    /// A transaction has begun.
    pub(crate) fn attempt(&self) {
        self.count(&self.attempts, Instant::now());
    }

    /// The breaker has refused a call.
    pub(crate) fn refusal(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// `time`: what comes after the run is not counted.
    fn count(&self, counts: &[AtomicU64], time: Instant) {
        let second = usize::try_from(time.duration_since(self.start).as_secs()).unwrap_or(usize::MAX);
        if let Some(count) = counts.get(second) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a run has shown, as in the model.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The most transactions per second that began, relative to the calls per second.
    pub(crate) peak_load: f64,
    /// Seconds from the end of the trouble until the callers have recovered.
    pub(crate) recovery: Option<usize>,
    /// The share of the calls that failed, from the trouble to the end.
    pub(crate) lost: f64,
    /// Calls that the breaker has refused, and repetitions of them.
    pub(crate) refusals: u64,
}

impl Outcome {
    fn of(counts: &Counts, load: Load) -> Self {
        let load_all = |counts: &[AtomicU64]| -> Vec<f64> {
            counts[BEFORE..].iter().map(|count| count.load(Ordering::Relaxed) as f64).collect()
        };
        let (calls, successes) = (load_all(&counts.calls), load_all(&counts.successes));
        let attempts = load_all(&counts.attempts);
        let (share, seconds) = HEALTHY;
        let shares: Vec<f64> = successes.iter().zip(&calls).map(|(successes, calls)| successes / calls).collect();
        let healthy = |shares: &[f64]| shares.iter().all(|one| *one >= share);
        Self {
            peak_load: attempts.iter().copied().fold(0.0, f64::max) / load.rate,
            recovery: shares[TROUBLE..].windows(seconds).position(healthy),
            lost: 1.0 - successes.iter().sum::<f64>() / calls.iter().sum::<f64>(),
            refusals: counts.refusals.load(Ordering::Relaxed),
        }
    }
}

/// Makes one run.
pub(crate) async fn run(server: &Bottleneck, load: Load, strategy: Strategy) -> anyhow::Result<Outcome> {
    server.clear().await?;
    let pools = Pools::new(&server.pool(load.connections).await?);
    let counts = Arc::new(Counts::new(load.seconds()));
    let (calls, trouble) = tokio::join!(calls(&counts, load, strategy, &pools), trouble(server, &counts, load));
    trouble?;
    calls?;
    Ok(Outcome::of(&counts, load))
}

/// Calls that arrive at random times and do not wait for each other.
async fn calls(counts: &Arc<Counts>, load: Load, strategy: Strategy, pools: &Pools) -> anyhow::Result<()> {
    let end = counts.start + Duration::from_secs(load.seconds() as u64);
    let mut calls = JoinSet::new();
    let mut arrival = counts.start;
    loop {
        arrival += Duration::from_secs_f64(-(1.0 - rand::rng().random::<f64>()).ln() / load.rate);
        if arrival >= end {
            break;
        }
        sleep_until(arrival.into()).await;
        counts.count(&counts.calls, arrival);
        let (pools, counts) = (pools.clone(), counts.clone());
        calls.spawn(async move {
            if call(strategy, pools, counts.clone()).await {
                counts.count(&counts.successes, arrival);
            }
        });
    }
    while let Some(call) = calls.join_next().await {
        call?;
    }
    Ok(())
}

async fn trouble(server: &Bottleneck, counts: &Counts, load: Load) -> anyhow::Result<()> {
    sleep_until((counts.start + Duration::from_secs(BEFORE as u64)).into()).await;
    server.slow_down(load.slowdown).await?;
    sleep(Duration::from_secs(TROUBLE as u64)).await;
    server.slow_down(1.0).await
}
