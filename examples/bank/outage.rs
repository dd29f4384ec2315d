//! The last part of the demo: the server goes away under a steady load, and comes back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use deadpool_postgres::Pool;
use retry_runtime::{Class, Source, WithBreaker, WithBudget, classify};
use tokio::select;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep_until};

use crate::calls::{Order, in_order};
use crate::progress::Progress;
use crate::run::{Bank, Calls, Run};

/// The name of this workload.
pub(crate) const OUTAGE: &str = "outage";
/// Longer than the outage.
const RETRY_FOR: Duration = Duration::from_secs(60);

/// What a call does while the server is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// The default options: two retries.
    Default,
    /// Retries until the server is back.
    RetryFor,
    /// A circuit breaker and a retry budget around the pool: calls are refused at once.
    Layers,
}

impl Protection {
    pub(crate) const ALL: [Self; 3] = [Self::Default, Self::RetryFor, Self::Layers];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::RetryFor => "retry_for",
            Self::Layers => "breaker",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Default => "default options",
            Self::RetryFor => "retry_for",
            Self::Layers => "breaker, budget",
        }
    }
}

type Protected = WithBreaker<WithBudget<Pool>>;

/// How a call ended.
#[derive(Clone, Copy)]
enum End {
    /// After so long.
    Committed(Duration),
    /// Nothing is committed.
    Failed,
    /// The server stopped during the commit, and did not come back in time.
    Unknown,
}

impl Bank<'_> {
    /// Makes the transfers at a steady rate. The server goes away after a while, and comes back.
    pub(crate) async fn outage(&self, protection: Protection, away: Duration) -> anyhow::Result<Run> {
        self.database.reset(self.accounts).await?;
        self.database.install().await?;
        let pool = self.database.durable_pool(self.workers).await?;
        self.tally.reset();
        let started = Instant::now();
        let outage = tokio::spawn(self.database.outage(away / 4, away));
        let calls = self.steady_calls(protection, pool, started, away).await;
        let elapsed = started.elapsed();
        // Also after Ctrl-C: the checks need the server.
        outage.await??;
        self.check(OUTAGE, protection.name(), calls?, elapsed).await
    }

    async fn steady_calls(
        &self,
        protection: Protection,
        pool: Pool,
        started: Instant,
        away: Duration,
    ) -> anyhow::Result<Calls> {
        // By default it is open for five seconds, so it would refuse calls for longer than this server is away.
        let protected = WithBreaker::new(WithBudget::new(pool.clone())).open_for(away / 6);
        let gap = away * 5 / 3 / u32::try_from(self.orders.len())?;
        let mut progress = Progress::start(protection.label(), self.orders.len(), &self.tally);
        let mut tick = interval(Duration::from_millis(100));
        let mut interrupted = self.interrupted.clone();
        let (mut calls, mut running) = (Calls::none(), JoinSet::new());
        let (mut orders, mut due) = (self.orders.iter(), started);
        while orders.len() > 0 || !running.is_empty() {
            select! {
                _ = tick.tick() => progress.update(),
                () = sleep_until(due.into()), if orders.len() > 0 => {
                    if let Some(&order) = orders.next() {
                        running.spawn(call(protection, pool.clone(), protected.clone(), order));
                    }
                    due += gap;
                }
                Some(ended) = running.join_next() => {
                    let (order, end) = ended?;
                    self.count(&mut calls, order, end?);
                }
                // Dropping a call is safe: it is rolled back, unless its COMMIT was already sent.
                _ = interrupted.wait_for(|interrupted| *interrupted) => break,
            }
        }
        progress.finish(*self.interrupted.borrow());
        Ok(calls)
    }

    fn count(&self, calls: &mut Calls, order: Order, end: End) {
        match end {
            End::Committed(time) => {
                calls.commit(order, time);
                self.tally.committed.fetch_add(1, Ordering::Relaxed);
            }
            End::Failed => calls.failed.push(order.call),
            End::Unknown => calls.unknown += 1,
        }
    }
}

async fn call(protection: Protection, pool: Pool, protected: Protected, order: Order) -> (Order, anyhow::Result<End>) {
    let started = Instant::now();
    let result = match protection {
        Protection::Default => in_order(&pool, order).await,
        Protection::RetryFor => in_order(Source::from(&pool).retry_for(RETRY_FOR), order).await,
        Protection::Layers => in_order(&protected, order).await,
    };
    let end = match result {
        Ok(()) => Ok(End::Committed(started.elapsed())),
        Err(error) if error.is_unknown() => Ok(End::Unknown),
        Err(error) => match classify(&error) {
            Some(Class::Connection | Class::Capacity) => Ok(End::Failed),
            _ => Err(error).context("a transfer failed, and not because of the outage"),
        },
    };
    (order, end)
}
