//! The variants that are compared.

use clap::ValueEnum;
use retry_tests::{connect, pool};

use super::session::{Session, Statements};
use super::{by_hand, diesel, ours, sqlx};
use crate::charts::style::Owner;
use crate::environment::Cluster;

/// A way to write a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Variant {
    /// tokio-postgres, hand-written
    Raw,
    /// tokio-postgres, hand-written, retried by backon
    Backon,
    /// deadpool, hand-written
    Deadpool,
    /// sqlx with its defaults
    Sqlx,
    /// diesel-async on deadpool with its defaults
    Diesel,
    /// `#[transactional]` on a client
    Ours,
    /// `#[transactional]` on deadpool
    OursPool,
    /// `#[transactional]` on a client with a `deadline`
    Deadline,
    /// `#[transactional]` on deadpool with a `deadline`
    DeadlinePool,
    /// `#[transactional]` on a client with `begin = "pipelined"`
    Pipelined,
    /// `#[transactional]` on deadpool with `begin = "pipelined"`
    PipelinedPool,
    /// `#[transactional]` on a client with `begin = "pipelined"`, and `UPDATE` sent with `COMMIT`
    TwoFlights,
    /// `#[transactional]` on deadpool with `early_release`
    EarlyRelease,
    /// `#[transactional]` on a client with `unknown_commit = "resolve"`
    Resolve,
    /// `#[transactional]` on a client with `unknown_commit = "token"`
    Token,
    /// `#[transactional]` on deadpool with `begin = "pipelined"`, serializable, with a deadline, both timeouts and
    /// `unknown_commit = "token"`
    PipelinedSafe,
}

impl Variant {
    /// The others are compared with this one.
    pub(crate) const BASELINE: Self = Self::Raw;

    /// Who wrote it.
    pub(crate) fn owner(self) -> Owner {
        match self {
            Self::BASELINE => Owner::Baseline,
            Self::Backon | Self::Deadpool | Self::Sqlx | Self::Diesel => Owner::Peer,
            _ => Owner::Ours,
        }
    }

    /// Opens sessions. On a pool they share one with as many connections.
    pub(crate) async fn open(self, cluster: &Cluster, sessions: usize) -> anyhow::Result<Vec<Box<dyn Session>>> {
        let config = cluster.config();
        Ok(match self {
            Self::Raw => on_clients(cluster, sessions, by_hand::Raw).await?,
            Self::Backon => on_clients(cluster, sessions, by_hand::Backon).await?,
            Self::Ours => on_clients(cluster, sessions, ours::OnClient).await?,
            Self::Resolve => on_clients(cluster, sessions, ours::Resolve).await?,
            Self::Token => on_clients(cluster, sessions, ours::Token).await?,
            Self::Deadline => on_clients(cluster, sessions, ours::WithDeadline).await?,
            Self::Pipelined => on_clients(cluster, sessions, ours::Pipelined).await?,
            Self::TwoFlights => on_clients(cluster, sessions, ours::TwoFlights).await?,
            Self::Deadpool => on_pool(sessions, &pool(&config, sessions), by_hand::Deadpool),
            Self::OursPool => on_pool(sessions, &pool(&config, sessions), ours::OnPool),
            Self::DeadlinePool => on_pool(sessions, &pool(&config, sessions), ours::WithDeadlineOnPool),
            Self::PipelinedPool => on_pool(sessions, &pool(&config, sessions), ours::PipelinedOnPool),
            Self::EarlyRelease => on_pool(sessions, &pool(&config, sessions), ours::EarlyRelease),
            Self::PipelinedSafe => on_pool(sessions, &pool(&config, sessions), ours::Safe),
            Self::Sqlx => on_pool(sessions, &sqlx::pool(cluster, u32::try_from(sessions)?).await?, sqlx::Sqlx),
            Self::Diesel => on_pool(sessions, &diesel::pool(cluster, sessions)?, diesel::Diesel),
        })
    }

    /// All variants, the peers first.
    pub(crate) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

async fn on_clients<S: Session + 'static>(
    cluster: &Cluster,
    sessions: usize,
    session: fn(tokio_postgres::Client, Statements) -> S,
) -> anyhow::Result<Vec<Box<dyn Session>>> {
    let mut opened: Vec<Box<dyn Session>> = Vec::new();
    for _ in 0..sessions {
        let client = connect(&cluster.config()).await;
        let statements = Statements::prepare(&client).await?;
        opened.push(Box::new(session(client, statements)));
    }
    Ok(opened)
}

fn on_pool<P: Clone, S: Session + 'static>(sessions: usize, pool: &P, session: fn(P) -> S) -> Vec<Box<dyn Session>> {
    (0..sessions).map(|_| Box::new(session(pool.clone())) as Box<dyn Session>).collect()
}
