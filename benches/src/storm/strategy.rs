//! The ways to make a call. Each gives up after the same time.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use deadpool_postgres::Pool;
use rand::RngExt;
use retry_runtime::{Error, Transaction, WithBreaker, WithBudget, transactional};
use tokio::time::{sleep, timeout};

use super::load::Counts;
use super::server::WORK;

/// After this time a caller gives up.
const LIMIT: Duration = Duration::from_secs(1);
/// How often the callers repeat a failed call, in the strategies of which they do.
const REPEATS: u32 = 3;
/// The upper bound of the first random delay. It doubles with each repetition.
const DELAY: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Strategy {
    /// `retries = 0`, and a timeout around the call
    NoRetries,
    /// The default options, and a timeout around the call
    Default,
    /// `deadline`, which the server gets as `statement_timeout`
    Deadline,
    /// A retry budget, and a timeout around the call
    Budget,
    /// A circuit breaker and `deadline`: a call that a timeout drops tells the breaker nothing
    Breaker,
    /// `deadline`, retry budget and circuit breaker
    All,
    /// As `default`, and the callers repeat a failed call up to three times
    RepeatDefault,
    /// As `deadline`, and the callers repeat a failed call up to three times
    RepeatDeadline,
    /// As `all`, and the callers repeat a failed call up to three times
    RepeatAll,
}

impl Strategy {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn repeats(self) -> u32 {
        match self {
            Self::RepeatDefault | Self::RepeatDeadline | Self::RepeatAll => REPEATS,
            _ => 0,
        }
    }
}

/// The pools of a run. They share their connections.
#[derive(Clone)]
pub(crate) struct Pools {
    plain: Pool,
    budget: WithBudget<Pool>,
    breaker: WithBreaker<Pool>,
    all: WithBreaker<WithBudget<Pool>>,
}

impl Pools {
    pub(crate) fn new(pool: &Pool) -> Self {
        Self {
            plain: pool.clone(),
            budget: WithBudget::new(pool.clone()),
            breaker: WithBreaker::new(pool.clone()),
            all: WithBreaker::new(WithBudget::new(pool.clone())),
        }
    }
}

/// Makes a call, and repeats it if the strategy says so. Returns whether it succeeded.
pub(crate) async fn call(strategy: Strategy, pools: Pools, counts: Arc<Counts>) -> bool {
    for repeat in 0..=strategy.repeats() {
        if repeat > 0 {
            let part = rand::rng().random::<f64>();
            sleep(DELAY.mul_f64(f64::from(1 << (repeat - 1)) * part)).await;
        }
        if once(strategy, &pools, &counts).await {
            return true;
        }
    }
    false
}

async fn once(strategy: Strategy, pools: &Pools, counts: &Counts) -> bool {
    let result = match strategy {
        Strategy::NoRetries => timeout(LIMIT, no_retries(&pools.plain, counts)).await,
        Strategy::Default | Strategy::RepeatDefault => timeout(LIMIT, default(&pools.plain, counts)).await,
        Strategy::Budget => timeout(LIMIT, default(&pools.budget, counts)).await,
        Strategy::Deadline | Strategy::RepeatDeadline => Ok(deadline(&pools.plain, counts).await),
        Strategy::Breaker => Ok(deadline(&pools.breaker, counts).await),
        Strategy::All | Strategy::RepeatAll => Ok(deadline(&pools.all, counts).await),
    };
    if let Ok(Err(Error::CircuitOpen { .. })) = result {
        counts.refusal();
    }
    matches!(result, Ok(Ok(())))
}

#[transactional(retries = 0, deadlock_retries = 0)]
async fn no_retries(tx: &mut Transaction<'_>, counts: &Counts) -> Result<(), Error> {
    work(tx, counts).await
}

#[transactional]
async fn default(tx: &mut Transaction<'_>, counts: &Counts) -> Result<(), Error> {
    work(tx, counts).await
}

#[transactional(deadline = LIMIT)]
async fn deadline(tx: &mut Transaction<'_>, counts: &Counts) -> Result<(), Error> {
    work(tx, counts).await
}

async fn work(tx: &Transaction<'_>, counts: &Counts) -> Result<(), Error> {
    counts.attempt();
    tx.batch_execute(WORK).await?;
    Ok(())
}
