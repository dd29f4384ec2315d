//! Makes the calls of a run, in a closed or an open loop, and counts how they end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::RngExt;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::attempt::{Run, is_conflict};
use super::process::Processes;
use super::scenario::Scenario;
use super::strategy::Strategy;
use crate::environment::Cluster;

/// When calls are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) length: Duration,
    /// Calls per second of an open loop. They arrive at random times and do not wait for earlier calls. Without it the
    /// loop is closed: each caller makes one call after the other.
    pub(crate) rate: Option<f64>,
    /// How many processes share the callers. With one, it is this process.
    pub(crate) processes: usize,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) attempts: u64,
    /// Calls that committed in time.
    pub(crate) commits: u64,
    /// Calls that committed after the end of the run.
    pub(crate) late_commits: u64,
    /// Calls that returned an error: their retries were used up, or see `was_canceled`.
    pub(crate) give_ups: u64,
    /// From each call's arrival to its end, or to the end of the run, in microseconds.
    pub(crate) latencies: Histogram<u64>,
}

/// How one call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Commit,
    GiveUp,
    /// It had not ended with the run, and then failed.
    Abandoned,
    /// It committed after the end of the run.
    LateCommit,
}

/// How each call ended, and how long it took.
pub(super) type Calls = Vec<(End, Duration)>;

/// Makes one run on a new table, and compares its result with the table.
pub(crate) async fn run(
    cluster: &Cluster,
    admin: &Client,
    scenario: Scenario,
    load: Load,
    strategy: Strategy,
) -> anyhow::Result<Outcome> {
    Scenario::reset(admin).await?;
    let outcome = if load.processes > 1 {
        let mut processes = Processes::start(&cluster.socket_folder(), scenario, load, strategy)?;
        processes.begin()?;
        let end = Instant::now() + load.length;
        tokio::select! {
            outcome = tokio::task::spawn_blocking(|| processes.outcome()) => outcome??,
            error = cut_short(admin, end) => return Err(error),
        }
    } else {
        let run = Arc::new(Run::new(scenario.pool(cluster.config()).await?, cluster.config(), scenario, load.length));
        tokio::select! {
            calls = calls(&run, strategy, load.rate) => Outcome::of(&run, &calls?)?,
            error = cut_short(admin, run.end) => return Err(error),
        }
    };
    Scenario::verify(admin, outcome.commits + outcome.late_commits).await?;
    Ok(outcome)
}

impl Outcome {
    pub(super) fn of(run: &Run, calls: &Calls) -> anyhow::Result<Self> {
        let mut latencies = Histogram::new(3)?;
        for (_, latency) in calls {
            latencies.record(u64::try_from(latency.as_micros())?)?;
        }
        Ok(Self {
            attempts: run.attempts.load(Ordering::Relaxed),
            commits: count(calls, End::Commit),
            late_commits: count(calls, End::LateCommit),
            give_ups: count(calls, End::GiveUp),
            latencies,
        })
    }
}

fn count(calls: &Calls, wanted: End) -> u64 {
    calls.iter().filter(|(end, _)| *end == wanted).count() as u64
}

/// Makes the calls of one process.
pub(super) async fn calls(run: &Arc<Run>, strategy: Strategy, rate: Option<f64>) -> anyhow::Result<Calls> {
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

/// Starts calls at the times of a Poisson process. In a thread, because tokio's timers have a resolution of 1 ms.
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

/// Makes one call. An error other than a conflict is a bug of this program.
async fn call(run: &Run, strategy: Strategy, arrival: Instant) -> anyhow::Result<(End, Duration)> {
    let result = strategy.call(run, run.scenario.transfer()).await;
    let now = Instant::now();
    let end = match result {
        Ok(()) if now < run.end => End::Commit,
        Ok(()) => End::LateCommit,
        Err(_) if now >= run.end => End::Abandoned,
        Err(error) if is_conflict(&error) || was_canceled(&error) => End::GiveUp,
        Err(error) => return Err(error),
    };
    Ok((end, now.min(run.end).saturating_duration_since(arrival)))
}

/// Whether the server reports that the statement was cancelled. Before the end of the run no cancel request is sent. But
/// if `lock_timeout` expires while the lock is being granted, which is rare, the server reports it like this.
fn was_canceled(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>());
    causes.any(|cause| cause.code() == Some(&SqlState::QUERY_CANCELED))
}

/// After the end of the run, cancels statements that wait for a lock. Returns only an error.
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
