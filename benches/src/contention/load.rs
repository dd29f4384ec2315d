//! Makes the calls of a run, in a closed or an open loop, and counts how they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::RngExt;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::attempt::{Run, lost_conflict};
use super::scenario::Scenario;
use super::strategy::Strategy;
use crate::environment::Cluster;

/// Who calls when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) length: Duration,
    /// In an open loop: how many calls arrive each second, at random times, however the earlier ones fare. Without it
    /// the loop is closed: each caller waits for the end of one call before it makes the next.
    pub(crate) rate: Option<f64>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) attempts: u64,
    /// Calls that were committed in time.
    pub(crate) commits: u64,
    /// Calls that returned an error: their retries were used up, but for a few that `was_cancelled` tells of.
    pub(crate) give_ups: u64,
    /// Calls that had not ended with the run.
    pub(crate) abandoned: u64,
    /// From a call's arrival to its end, however it ended, in microseconds. For the abandoned: to the end of the run.
    pub(crate) latencies: Histogram<u64>,
}

/// How one call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Commit,
    GiveUp,
    Abandoned,
    /// Abandoned, and then committed.
    LateCommit,
}

/// How each call ended, and how long it took.
type Calls = Vec<(End, Duration)>;

/// Makes one run on a fresh table, and checks what it reports against the table.
pub(crate) async fn run(
    cluster: &Cluster,
    admin: &Client,
    scenario: Scenario,
    load: Load,
    strategy: Strategy,
) -> anyhow::Result<Outcome> {
    Scenario::reset(admin).await?;
    let pool = scenario.pool(cluster).await?;
    let run = Arc::new(Run { pool, scenario, end: Instant::now() + load.length, attempts: AtomicU64::new(0) });
    let calls = tokio::select! {
        calls = calls(&run, strategy, load.rate) => calls?,
        error = cut_short(admin, run.end) => return Err(error),
    };
    let commits = count(&calls, End::Commit) + count(&calls, End::LateCommit);
    Scenario::verify(admin, commits).await?;
    Outcome::of(&run, &calls)
}

impl Outcome {
    fn of(run: &Run, calls: &Calls) -> anyhow::Result<Self> {
        let mut latencies = Histogram::new(3)?;
        for (_, latency) in calls {
            latencies.record(u64::try_from(latency.as_micros())?)?;
        }
        Ok(Self {
            attempts: run.attempts.load(Ordering::Relaxed),
            commits: count(calls, End::Commit),
            give_ups: count(calls, End::GiveUp),
            abandoned: count(calls, End::Abandoned) + count(calls, End::LateCommit),
            latencies,
        })
    }
}

fn count(calls: &Calls, wanted: End) -> u64 {
    calls.iter().filter(|(end, _)| *end == wanted).count() as u64
}

async fn calls(run: &Arc<Run>, strategy: Strategy, rate: Option<f64>) -> anyhow::Result<Calls> {
    match rate {
        None => closed_loop(run, strategy).await,
        Some(rate) => open_loop(run, strategy, rate).await,
    }
}

async fn closed_loop(run: &Arc<Run>, strategy: Strategy) -> anyhow::Result<Calls> {
    let callers: Vec<_> = (0..run.scenario.callers)
        .map(|_| {
            let run = run.clone();
            tokio::spawn(async move {
                let mut calls = Calls::new();
                while !run.is_over() {
                    calls.push(call(&run, strategy, Instant::now()).await?);
                }
                anyhow::Ok(calls)
            })
        })
        .collect();
    let mut calls = Calls::new();
    for caller in callers {
        calls.extend(caller.await??);
    }
    Ok(calls)
}

async fn open_loop(run: &Arc<Run>, strategy: Strategy, rate: f64) -> anyhow::Result<Calls> {
    let (arriving, runtime) = (run.clone(), Handle::current());
    let arrivals = tokio::task::spawn_blocking(move || arrivals(&arriving, strategy, rate, &runtime)).await?;
    let mut calls = Calls::new();
    for call in arrivals {
        calls.push(call.await??);
    }
    Ok(calls)
}

/// Starts calls at the times of a Poisson process. On a thread, as the runtime's timers count in milliseconds.
fn arrivals(
    run: &Arc<Run>,
    strategy: Strategy,
    rate: f64,
    runtime: &Handle,
) -> Vec<JoinHandle<anyhow::Result<(End, Duration)>>> {
    let mut calls = Vec::new();
    let mut arrival = Instant::now();
    loop {
        let gap = -(1.0 - rand::rng().random::<f64>()).ln() / rate;
        arrival += Duration::from_secs_f64(gap);
        if arrival >= run.end {
            return calls;
        }
        std::thread::sleep(arrival.saturating_duration_since(Instant::now()));
        let run = run.clone();
        calls.push(runtime.spawn(async move { call(&run, strategy, arrival).await }));
    }
}

/// Makes one call. An error other than a lost conflict is a fault of this program.
async fn call(run: &Run, strategy: Strategy, arrival: Instant) -> anyhow::Result<(End, Duration)> {
    let result = strategy.call(run, run.scenario.transfer()).await;
    let now = Instant::now();
    let end = match result {
        Ok(()) if now < run.end => End::Commit,
        Ok(()) => End::LateCommit,
        Err(_) if now >= run.end => End::Abandoned,
        Err(error) if lost_conflict(&error) || was_cancelled(&error) => End::GiveUp,
        Err(error) => return Err(error),
    };
    Ok((end, now.min(run.end).saturating_duration_since(arrival)))
}

/// Whether the server says that somebody cancelled the statement. Before the end of the run nobody has: that is how
/// it reports, once in ten thousand times or so, a `lock_timeout` that fires while the lock is being granted.
fn was_cancelled(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>());
    causes.any(|cause| cause.code() == Some(&SqlState::QUERY_CANCELED))
}

/// Once the run is over, cancels whatever waits for a lock: nobody wants it any more. Ends only by an error.
async fn cut_short(admin: &Client, end: Instant) -> anyhow::Error {
    const CANCEL: &str = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    tokio::time::sleep_until(end.into()).await;
    loop {
        if let Err(error) = admin.batch_execute(CANCEL).await {
            return error.into();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
