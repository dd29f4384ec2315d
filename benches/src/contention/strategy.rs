//! The retry strategies that are compared.

use clap::ValueEnum;

use super::attempt::Run;
use super::scenario::Transfer;
use super::{ours, peers};
use crate::charts::style::Owner;

/// A way to retry calls that conflict. All have the same limit of retries, except `AsItComes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Strategy {
    /// cockroach-go: no delay
    Immediate,
    /// utopia-php/database: 50 to 800 ms, plus up to the same again at random
    Utopia,
    /// YugabyteDB's documentation: 2 ms, doubled, no jitter
    Yugabyte,
    /// An asyncpg guide: 100 ms, doubled, plus up to a tenth at random
    Asyncpg,
    /// backon's default: 1 to 60 s, no jitter
    Backon,
    /// `#[transactional]` without options: 5 retries
    AsItComes,
    /// `#[transactional]`
    Default,
    /// ... with `lock_timeout = "20ms"`
    LockTimeout,
    /// ... with `escalate_after = 2`
    Escalate,
    /// ... with `queue_by = [from, to]`
    Queue,
    /// ... with `early_release`
    EarlyRelease,
    /// ... with `queue_by = [from, to]` and `early_release`
    QueueEarlyRelease,
    /// ... with `queue_by = [from, to], queue = "server"`
    ServerQueue,
    /// ... and `begin = "pipelined"`
    ServerQueuePipelined,
    /// ... and `early_release`
    ServerQueueEarlyRelease,
    /// `#[transactional]` on a pool with `WithCancel`
    WithCancel,
    /// `#[transactional(begin = "pipelined")]`, and both `UPDATE`s sent with `COMMIT`
    Sent,
    /// ... with `queue_by = [from, to]` and `early_release`
    QueueSent,
    /// ... and `queue = "server"`
    ServerQueueSent,
    /// `#[transactional(begin = "pipelined")]`
    Pipelined,
}

impl Strategy {
    /// The others are compared with this one.
    pub(crate) const BASELINE: Self = Self::Immediate;

    /// Who wrote it.
    pub(crate) fn owner(self) -> Owner {
        match self {
            Self::BASELINE => Owner::Baseline,
            Self::Utopia | Self::Yugabyte | Self::Asyncpg | Self::Backon => Owner::Peer,
            _ => Owner::Ours,
        }
    }

    /// Makes one call, with all its retries.
    pub(crate) async fn call(self, run: &Run, transfer: Transfer) -> anyhow::Result<()> {
        match self {
            Self::Immediate => peers::immediate(run, transfer).await,
            Self::Utopia => peers::utopia(run, transfer).await,
            Self::Yugabyte => peers::yugabyte(run, transfer).await,
            Self::Asyncpg => peers::asyncpg(run, transfer).await,
            Self::Backon => peers::backon(run, transfer).await,
            Self::AsItComes => ours::as_it_comes(&run.pool, run, transfer).await,
            Self::Default => ours::default(&run.pool, run, transfer).await,
            Self::LockTimeout => ours::lock_timeout(&run.pool, run, transfer).await,
            Self::Escalate => ours::escalate(&run.pool, run, transfer).await,
            Self::Queue => ours::queue(&run.pool, run, transfer).await,
            Self::EarlyRelease => ours::early_release(&run.pool, run, transfer).await,
            Self::QueueEarlyRelease => ours::queue_early_release(&run.pool, run, transfer).await,
            Self::ServerQueue => ours::server_queue(&run.pool, run, transfer).await,
            Self::ServerQueuePipelined => ours::server_queue_pipelined(&run.pool, run, transfer).await,
            Self::ServerQueueEarlyRelease => ours::server_queue_early_release(&run.pool, run, transfer).await,
            Self::WithCancel => ours::default(&run.with_cancel, run, transfer).await,
            Self::Sent => ours::sent(&run.pool, run, transfer).await,
            Self::QueueSent => ours::queue_sent(&run.pool, run, transfer).await,
            Self::ServerQueueSent => ours::server_queue_sent(&run.pool, run, transfer).await,
            Self::Pipelined => ours::pipelined(&run.pool, run, transfer).await,
        }
    }

    /// All strategies, the peers first.
    pub(crate) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
