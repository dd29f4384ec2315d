//! Looks up the outcome of a transaction if the reply to its `COMMIT` did not arrive.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::classify::Class;
use crate::commit::flush::FLUSH;
use crate::commit::identify::{self, ASK_SERVER};
use crate::driver::{self, Client, DriverError};
use crate::error::{CommitOutcome, Identity, Key, Token, Transaction};
use crate::pool::Pool;
use crate::pool::clean_up::SessionGuard;
use crate::transaction::deadline::{Deadline, Expired};

/// How long the look-up of a call without a deadline may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one connection may take, from asking the pool to the reply.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a transaction may stay in progress before its session is ended: no client is waiting for it.
const IN_PROGRESS_TIMEOUT: Duration = Duration::from_millis(150);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

impl Identity {
    /// Looks up the outcome of the transaction of an [`Error::CommitUnknown`](crate::Error::CommitUnknown).
    ///
    /// Use a connection that runs nothing else, to the server that the transaction ran on (or its successor, with
    /// tokens).
    ///
    /// This waits while the transaction is in progress: put a timeout around it. If the transaction stays in progress
    /// for 150 ms, its session is ended (`pg_terminate_backend`), if the role may do that. A commit that waits for a
    /// synchronous standby is left alone until the standby has acknowledged it: if its session were ended, it would be
    /// committed on this server only.
    ///
    /// For an identity by token this claims the token. So a transaction that is found missing can never be committed.
    /// [`install`](crate::install()) creates the table of the tokens.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use retry_runtime::{CommitOutcome, Identity};
    ///
    /// async fn ask(stored: &str, client: &tokio_postgres::Client) -> anyhow::Result<CommitOutcome> {
    ///     let identity: Identity = stored.parse()?;
    ///     Ok(tokio::time::timeout(Duration::from_secs(30), identity.resolve(client)).await??)
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of the database. The outcome is still unknown then: ask again.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time. Its connection then finishes the statement that is running.
    pub async fn resolve(&self, client: &Client) -> Result<CommitOutcome, DriverError> {
        Ok(ask(self, client).await?.unwrap_or(CommitOutcome::Unknown))
    }
}

/// Looks up the outcome on the pool's connections, and tries again until the deadline.
pub(crate) async fn look_up(pool: &dyn Pool, identity: &Identity, deadline: Deadline) -> CommitOutcome {
    let search = async {
        let mut pause = POLL_INTERVAL;
        loop {
            // If a connection hangs, the next one may not.
            let asked = Deadline::after(Some(CONNECTION_TIMEOUT)).bound(ask_one(pool, identity)).await;
            if let Ok(Some(outcome)) = asked {
                return outcome;
            }
            sleep(pause).await;
            pause = (pause * 2).min(20 * POLL_INTERVAL);
        }
    };
    match deadline.or_after(LOOKUP_TIMEOUT).bound(search).await {
        Ok(outcome) => outcome,
        Err(Expired) => CommitOutcome::Unknown,
    }
}

/// Asks on one of the pool's connections. `None`: it failed, or it was to a standby.
async fn ask_one(pool: &dyn Pool, identity: &Identity) -> Option<CommitOutcome> {
    match pool.get().await {
        Ok(session) => {
            let session = SessionGuard::new(session);
            let outcome = ask(identity, session.client()).await.ok().flatten()?;
            session.give_back();
            Some(outcome)
        }
        // The pool is closed, or the login was refused: the next request would fail too.
        Err(error) if error.class() == Class::Fatal => Some(CommitOutcome::Unknown),
        Err(_) => None,
    }
}

/// `None`: this server is a standby.
async fn ask(identity: &Identity, client: &Client) -> Result<Option<CommitOutcome>, DriverError> {
    let outcome = match &identity.key {
        Key::Token(token) => Some(claim(*token, client).await?),
        Key::Transaction(transaction) => look_until_ended(transaction, client).await?,
    };
    if identity.early_release && outcome == Some(CommitOutcome::Committed) {
        // A crash could still take the commit back. One before the flush ends this session too.
        driver::run(client, FLUSH).await?;
    }
    Ok(outcome)
}

/// Claims the token unless the transaction has written it. The first insert decides: the claim waits for a transaction
/// that has inserted the token and is still in progress, and a transaction that inserts later fails.
///
/// No isolation level is named, because Aurora DSQL refuses all but one. The second message has its own snapshot, so it
/// sees what the claim has waited for.
async fn claim(token: Token, client: &Client) -> Result<CommitOutcome, DriverError> {
    let insert = format!(
        "BEGIN; INSERT INTO transactional.commits (token, committed) VALUES ('{token}', false) ON CONFLICT DO NOTHING; \
         COMMIT"
    );
    while let Err(error) = driver::run(client, &insert).await {
        driver::run(client, "ROLLBACK").await?;
        // Above `read committed`, the claim fails if what it waits for commits.
        if driver::failure_of(&error).class != Class::Serialization {
            return Err(error);
        }
        sleep(POLL_INTERVAL).await;
    }
    let select = format!("SELECT committed FROM transactional.commits WHERE token OPERATOR(pg_catalog.=) '{token}'");
    let row = driver::ask(client, &select).await?;
    Ok(match row.as_ref().and_then(|row| row.get(0)) {
        Some("t" | "true") => CommitOutcome::Committed,
        Some(_) => CommitOutcome::RolledBack,
        None => CommitOutcome::Unknown,
    })
}

async fn look_until_ended(transaction: &Transaction, client: &Client) -> Result<Option<CommitOutcome>, DriverError> {
    let mut since = Instant::now();
    loop {
        match look(transaction, client).await? {
            Look::Ended(outcome) => return Ok(Some(outcome)),
            Look::Standby => return Ok(None),
            Look::InProgress { ours } => {
                if ours && since.elapsed() >= IN_PROGRESS_TIMEOUT {
                    end_session(transaction, client).await;
                    since = Instant::now();
                }
            }
        }
        sleep(POLL_INTERVAL).await;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Look {
    Ended(CommitOutcome),
    /// `ours`: it is our transaction. Otherwise the id may have been reused.
    InProgress {
        ours: bool,
    },
    Standby,
}

/// Asks for the incarnation first and for the status last: a crash in between ends this session too.
async fn look(transaction: &Transaction, client: &Client) -> Result<Look, DriverError> {
    let server = driver::ask(client, ASK_SERVER).await?;
    if server.as_ref().and_then(|row| row.get(0)) == Some("true") {
        return Ok(Look::Standby);
    }
    let Some(server) = server.as_ref().and_then(|row| identify::incarnation(row, 1)) else {
        return Ok(Look::Ended(CommitOutcome::Unknown));
    };
    if server.system != transaction.incarnation.system {
        return Ok(Look::Ended(CommitOutcome::Unknown));
    }
    let same = server == transaction.incarnation;
    Ok(judge(status(transaction.xid, client).await?.as_deref(), same))
}

/// What `pg_xact_status` means.
///
/// On another incarnation of the server the id may have been reused. Then only "not committed" is certain: our commit, if
/// it had survived, would show. The transaction in progress may be ours all the same, because an administrator can reset
/// the statistics of a server that never crashed. So it is waited for.
fn judge(status: Option<&str>, same_incarnation: bool) -> Look {
    match (status, same_incarnation) {
        (Some("committed"), true) => Look::Ended(CommitOutcome::Committed),
        (Some("aborted"), _) | (Some(FUTURE), false) => Look::Ended(CommitOutcome::RolledBack),
        (Some("in progress"), ours) => Look::InProgress { ours },
        _ => Look::Ended(CommitOutcome::Unknown),
    }
}

/// The status of an id that the server has not assigned yet.
const FUTURE: &str = "in the future";

async fn status(xid: u64, client: &Client) -> Result<Option<String>, DriverError> {
    match driver::ask(client, &format!("SELECT pg_catalog.pg_xact_status('{xid}')")).await {
        Ok(row) => Ok(row.and_then(|row| row.get(0).map(str::to_owned))),
        Err(error) if driver::failure_of(&error).is_invalid_value() => Ok(Some(FUTURE.to_owned())),
        Err(error) => Err(error),
    }
}

/// Ends the session that runs this transaction, if it still does: behind a pooler, a server process has many clients. A
/// session that may be waiting for a synchronous standby is left alone: that would end the wait, not the transaction.
async fn end_session(transaction: &Transaction, client: &Client) {
    let Transaction { xid, pid, .. } = transaction;
    let sql = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
         WHERE pid OPERATOR(pg_catalog.=) {pid} \
         AND backend_xid OPERATOR(pg_catalog.=) '{xid}'::pg_catalog.xid8::pg_catalog.xid \
         AND (pg_catalog.starts_with(state, 'idle in transaction') \
         OR pg_catalog.current_setting('synchronous_standby_names') OPERATOR(pg_catalog.=) '')"
    );
    // If the role may not do that, the transaction is waited for. If the connection has failed, the next look fails too.
    let _ = driver::run(client, &sql).await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::error::PoolError;
    use crate::pool::{BoxFuture, Session};

    /// A pool that gives no session, and counts how often it is asked.
    struct Empty(Class, AtomicU32);

    impl Pool for Empty {
        fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Err(PoolError::new(self.0, "no session")) })
        }
    }

    /// How often the look-up asks the pool in 300 ms.
    async fn requests(class: Class) -> u32 {
        let pool = Empty(class, AtomicU32::default());
        let identity = Identity { key: Key::Token(identify::new_token()), early_release: false };
        let deadline = Deadline::after(Some(Duration::from_millis(300)));
        assert_eq!(look_up(&pool, &identity, deadline).await, CommitOutcome::Unknown);
        pool.1.into_inner()
    }

    #[tokio::test]
    async fn the_pool_is_asked_again_after_longer_and_longer_pauses() {
        let requests = requests(Class::Connection).await;
        assert!((2..=6).contains(&requests), "{requests}");
    }

    #[tokio::test]
    async fn a_pool_that_is_closed_is_not_asked_again() {
        assert_eq!(requests(Class::Fatal).await, 1);
    }

    #[test]
    fn on_the_same_incarnation_the_status_decides() {
        assert_eq!(judge(Some("committed"), true), Look::Ended(CommitOutcome::Committed));
        assert_eq!(judge(Some("aborted"), true), Look::Ended(CommitOutcome::RolledBack));
        assert_eq!(judge(Some("in progress"), true), Look::InProgress { ours: true });
        assert_eq!(judge(Some(FUTURE), true), Look::Ended(CommitOutcome::Unknown));
        assert_eq!(judge(None, true), Look::Ended(CommitOutcome::Unknown));
    }

    #[test]
    fn on_another_incarnation_only_a_rollback_is_certain() {
        assert_eq!(judge(Some("committed"), false), Look::Ended(CommitOutcome::Unknown));
        assert_eq!(judge(Some("aborted"), false), Look::Ended(CommitOutcome::RolledBack));
        assert_eq!(judge(Some(FUTURE), false), Look::Ended(CommitOutcome::RolledBack));
        assert_eq!(judge(Some("in progress"), false), Look::InProgress { ours: false });
    }
}
