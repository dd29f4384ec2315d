//! The retry loops of peers, hand-written: their delays, and whether they hold a connection during a delay.
//!
//! All have the same limit of retries, so their throughput can be compared.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use rand::RngExt;

use super::attempt::{Run, by_hand, is_conflict, sleep};
use super::scenario::Transfer;

/// The limit of cockroach-go.
pub(crate) const RETRIES: u32 = 50;

/// Retries on one connection, and keeps it during delays. `delay` gets the number of the retry, starting at 1.
async fn holding(run: &Run, transfer: Transfer, delay: fn(u32) -> Duration) -> anyhow::Result<()> {
    let mut client = run.pool.get().await?;
    for retry in 1..=RETRIES {
        match by_hand(&mut client, run, transfer).await {
            Err(error) if is_conflict(&error) => sleep(delay(retry), run.end).await,
            result => return result,
        }
    }
    by_hand(&mut client, run, transfer).await
}

/// Takes a connection per attempt.
async fn releasing(run: &Run, transfer: Transfer, delay: fn(u32) -> Duration) -> anyhow::Result<()> {
    for retry in 1..=RETRIES {
        match pooled(run, transfer).await {
            Err(error) if is_conflict(&error) => sleep(delay(retry), run.end).await,
            result => return result,
        }
    }
    pooled(run, transfer).await
}

async fn pooled(run: &Run, transfer: Transfer) -> anyhow::Result<()> {
    by_hand(&mut run.pool.get().await?, run, transfer).await
}

/// cockroach-go: no delay.
pub(crate) async fn immediate(run: &Run, transfer: Transfer) -> anyhow::Result<()> {
    holding(run, transfer, |_| Duration::ZERO).await
}

/// utopia-php/database: 50 ms, doubled up to 800 ms, plus up to the same again at random.
pub(crate) async fn utopia(run: &Run, transfer: Transfer) -> anyhow::Result<()> {
    let delay = |retry: u32| {
        let delay = doubled(Duration::from_millis(50), retry).min(Duration::from_millis(800));
        delay + rand::rng().random_range(Duration::ZERO..=delay)
    };
    holding(run, transfer, delay).await
}

/// YugabyteDB's documentation: 2 ms, doubled without limit, no jitter.
pub(crate) async fn yugabyte(run: &Run, transfer: Transfer) -> anyhow::Result<()> {
    holding(run, transfer, |retry| doubled(Duration::from_millis(2), retry)).await
}

/// An asyncpg guide: 100 ms, doubled without limit, plus up to a tenth at random.
pub(crate) async fn asyncpg(run: &Run, transfer: Transfer) -> anyhow::Result<()> {
    let delay = |retry| {
        let delay = doubled(Duration::from_millis(100), retry);
        delay + rand::rng().random_range(Duration::ZERO..=delay / 10)
    };
    releasing(run, transfer, delay).await
}

/// backon's default delays: 1 s, doubled up to 60 s, no jitter.
pub(crate) async fn backon(run: &Run, transfer: Transfer) -> anyhow::Result<()> {
    let end = run.end;
    (|| pooled(run, transfer))
        .retry(ExponentialBuilder::default().with_max_times(RETRIES as usize))
        .sleep(move |delay| sleep(delay, end))
        .when(is_conflict)
        .await
}

fn doubled(base: Duration, retry: u32) -> Duration {
    // Days at most: no run is that long, and it does not overflow.
    base * (1 << (retry - 1).min(20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_without_overflow() {
        let delays: Vec<_> = [1, 2, 5].map(|retry| doubled(Duration::from_millis(50), retry).as_millis()).to_vec();
        assert_eq!(delays, [50, 100, 800]);
        assert!(doubled(Duration::from_millis(100), RETRIES) > Duration::from_hours(24));
    }
}
