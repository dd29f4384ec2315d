//! One attempt at a transfer. All strategies send the same statements.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{Object, Pool, Transaction};
use retry_runtime::{Class, WithCancel, classify};
use tokio_postgres::{Config, NoTls};

use super::scenario::{Scenario, Transfer};

/// Shared by the calls of one run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) pool: Pool,
    /// The same pool, whose statements can be cancelled.
    pub(crate) with_cancel: WithCancel<Pool, NoTls>,
    pub(crate) scenario: Scenario,
    /// Later no attempt begins, and calls in progress are abandoned.
    pub(crate) end: Instant,
    pub(crate) attempts: AtomicU64,
}

impl Run {
    /// A run that begins now.
    pub(crate) fn new(pool: Pool, config: Config, scenario: Scenario, length: Duration) -> Self {
        let with_cancel = WithCancel::new(pool.clone(), config, NoTls);
        Self { pool, with_cancel, scenario, end: Instant::now() + length, attempts: AtomicU64::new(0) }
    }

    /// Counts an attempt. Fails if the run is over.
    pub(crate) fn begin_attempt(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.is_over(), "the run is over");
        self.attempts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Whether time is up.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }
}

/// Waits before a retry, but not past the end of the run.
pub(crate) async fn sleep(delay: Duration, end: Instant) {
    if !delay.is_zero() {
        tokio::time::sleep_until((Instant::now() + delay).min(end).into()).await;
    }
}

/// The transfer's statements. A macro, because deadpool's transaction and ours share methods but no trait.
macro_rules! transfer {
    ($tx:expr, $run:expr, $transfer:expr) => {
        $crate::contention::attempt::transfer!($tx, $run, $transfer, execute.await)
    };
    // `$write` is the method that runs an UPDATE.
    ($tx:expr, $run:expr, $transfer:expr, $write:ident $(. $wait:tt)?) => {{
        $run.begin_attempt()?;
        let select = $tx.prepare_cached($run.scenario.select()).await?;
        let update = $tx.prepare_cached($crate::contention::scenario::Scenario::UPDATE).await?;
        for id in [$transfer.from, $transfer.to] {
            let _balance: i64 = $tx.query_one(&select, &[&id]).await?.get(0);
        }
        for (id, amount) in [($transfer.from, -1_i64), ($transfer.to, 1)] {
            $tx.$write(&update, &[&id, &amount])$(.$wait)??;
        }
        Ok(())
    }};
}
pub(crate) use transfer;

/// The same statements, but no reply to an `UPDATE` is waited for.
macro_rules! transfer_sent {
    ($tx:expr, $run:expr, $transfer:expr) => {
        $crate::contention::attempt::transfer!($tx, $run, $transfer, send)
    };
}
pub(crate) use transfer_sent;

/// A hand-written attempt.
pub(crate) async fn by_hand(client: &mut Object, run: &Run, transfer: Transfer) -> anyhow::Result<()> {
    let tx = client.transaction().await?;
    match statements(&tx, run, transfer).await {
        Ok(()) => Ok(tx.commit().await?),
        Err(error) => {
            tx.rollback().await?;
            Err(error)
        }
    }
}

async fn statements(tx: &Transaction<'_>, run: &Run, transfer: Transfer) -> anyhow::Result<()> {
    transfer!(tx, run, transfer)
}

/// Whether another attempt may succeed.
pub(crate) fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(classify(error.as_ref()), Some(Class::Serialization | Class::Deadlock | Class::Lock))
}
