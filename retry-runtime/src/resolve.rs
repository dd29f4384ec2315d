//! Finding out what became of a transaction whose `COMMIT` was never answered.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Error as PgError};

use crate::classify::{Class, Failure};
use crate::clean_up::Borrowed;
use crate::deadline::{Deadline, Expired};
use crate::identity::{ASK_SERVER, Identity, Incarnation, Kind, Token, Xact, last_row};
use crate::source::Pool;

/// How long a call without a deadline looks for the outcome.
const LIMIT: Duration = Duration::from_secs(30);
/// How long one connection may take to be had and to answer.
const TRY: Duration = Duration::from_secs(5);
/// How long a transaction may stay in progress before its session is ended: it has nobody to answer to.
const PATIENCE: Duration = Duration::from_millis(150);
const POLL: Duration = Duration::from_millis(10);

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommitOutcome {
    /// It is committed.
    Committed,
    /// It is rolled back, and can no longer be committed.
    RolledBack,
    /// This server cannot tell: it is another one, or a standby; or the transaction seems to be committed, but the
    /// server has crashed or failed over since, or had its statistics reset, so that it may be somebody else's.
    Unknown,
}

impl CommitOutcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled back",
            Self::Unknown => "unknown",
        }
    }
}

/// Finds out what became of the transaction of an [`Error::CommitUnknown`](crate::Error::CommitUnknown).
///
/// Ask on a connection of its own, to the server that the transaction ran on (or its successor, with tokens). Waits as
/// long as the transaction is still in progress: put a timeout round it. A transaction that stays in progress for
/// 150 ms has its session ended (`pg_terminate_backend`), where the role may do that, if its `COMMIT` has not arrived,
/// or if the server waits for no synchronous standby. A commit that waits for one is left alone until the standby has
/// acknowledged it: ended, it would be committed on this server only.
///
/// An identity by token claims the token, so that a transaction which is found missing can never be committed. Its
/// table is made by [`install`](crate::install()).
///
/// # Errors
/// The database's own. The outcome is then as unknown as before: ask again.
///
/// # Cancellation
/// The future may be dropped at any time, and its connection then finishes the statement that is running.
pub async fn resolve(identity: &Identity, client: &Client) -> Result<CommitOutcome, PgError> {
    match &identity.0 {
        Kind::Token(token) => claim(*token, client).await,
        Kind::Xact(xact) => Ok(look_until_ended(xact, client).await?.unwrap_or(CommitOutcome::Unknown)),
    }
}

/// Finds out on the pool's connections, trying again until the deadline.
pub(crate) async fn find_out(pool: &dyn Pool, identity: &Identity, deadline: Deadline) -> CommitOutcome {
    let search = async {
        let mut pause = POLL;
        loop {
            // One that hangs is given up for the next.
            if let Ok(Some(outcome)) = Deadline::after(Some(TRY)).bound(ask_one(pool, identity)).await {
                return outcome;
            }
            sleep(pause).await;
            pause = (pause * 2).min(20 * POLL);
        }
    };
    match deadline.or_after(LIMIT).bound(search).await {
        Ok(outcome) => outcome,
        Err(Expired) => CommitOutcome::Unknown,
    }
}

/// Asks on one of the pool's connections. `None`: it failed, or a standby answered.
async fn ask_one(pool: &dyn Pool, identity: &Identity) -> Option<CommitOutcome> {
    match pool.get().await {
        Ok(session) => {
            let session = Borrowed::new(session);
            let outcome = ask(identity, session.client()).await.ok().flatten()?;
            session.give_back();
            Some(outcome)
        }
        // The pool is closed, or the login refused: asking again is no use.
        Err(error) if Failure::find(&error).is_none_or(|failure| failure.class == Class::Fatal) => {
            Some(CommitOutcome::Unknown)
        }
        Err(_) => None,
    }
}

/// `None`: a standby answered.
async fn ask(identity: &Identity, client: &Client) -> Result<Option<CommitOutcome>, PgError> {
    match &identity.0 {
        Kind::Token(token) => claim(*token, client).await.map(Some),
        Kind::Xact(xact) => look_until_ended(xact, client).await,
    }
}

/// Claims the token unless the transaction has written it. Whoever inserts first decides: the claim waits for a
/// transaction that has inserted the token and is still in progress, and one that comes later fails.
async fn claim(token: Token, client: &Client) -> Result<CommitOutcome, PgError> {
    let claimed = client
        .simple_query(&format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; \
             INSERT INTO transactional.commits (token, committed) VALUES ('{token}', false) ON CONFLICT DO NOTHING; \
             SELECT committed FROM transactional.commits WHERE token OPERATOR(pg_catalog.=) '{token}'; COMMIT"
        ))
        .await;
    match claimed {
        Ok(messages) => Ok(match last_row(&messages).and_then(|row| row.get(0)) {
            Some("t" | "true") => CommitOutcome::Committed,
            Some(_) => CommitOutcome::RolledBack,
            None => CommitOutcome::Unknown,
        }),
        Err(error) => {
            client.batch_execute("ROLLBACK").await?;
            Err(error)
        }
    }
}

async fn look_until_ended(xact: &Xact, client: &Client) -> Result<Option<CommitOutcome>, PgError> {
    let mut since = Instant::now();
    loop {
        match look(xact, client).await? {
            Look::Ended(outcome) => return Ok(Some(outcome)),
            Look::Standby => return Ok(None),
            Look::InProgress { ours } => {
                if ours && since.elapsed() >= PATIENCE {
                    end_session(xact, client).await?;
                    since = Instant::now();
                }
            }
        }
        sleep(POLL).await;
    }
}

enum Look {
    Ended(CommitOutcome),
    /// Surely ours, or perhaps somebody else's.
    InProgress {
        ours: bool,
    },
    Standby,
}

/// Asks for the incarnation first and for the status last: a crash in between ends this session too.
async fn look(xact: &Xact, client: &Client) -> Result<Look, PgError> {
    let messages = client.simple_query(ASK_SERVER).await?;
    let field = |index| last_row(&messages).and_then(|row| row.get(index)).map(str::to_owned);
    if field(0).as_deref() == Some("true") {
        return Ok(Look::Standby);
    }
    let (Some(timeline), Some(stats_reset), Some(system)) = (field(1), field(2), field(3)) else {
        return Ok(Look::Ended(CommitOutcome::Unknown));
    };
    if system != xact.incarnation.system {
        return Ok(Look::Ended(CommitOutcome::Unknown));
    }
    let same = Incarnation { timeline, stats_reset, system } == xact.incarnation;
    Ok(judge(status(xact.xid, client).await?.as_deref(), same))
}

/// What `pg_xact_status` means.
///
/// On another incarnation the id may be somebody else's: then only "not committed" is certain, as our own commit, had
/// it survived, would show. It may be ours all the same, as an administrator can reset the statistics of a server that
/// never crashed: so what is in progress is waited for.
fn judge(status: Option<&str>, same_incarnation: bool) -> Look {
    match (status, same_incarnation) {
        (Some("committed"), true) => Look::Ended(CommitOutcome::Committed),
        (Some("aborted"), _) | (Some(FUTURE), false) => Look::Ended(CommitOutcome::RolledBack),
        (Some("in progress"), ours) => Look::InProgress { ours },
        _ => Look::Ended(CommitOutcome::Unknown),
    }
}

/// The status of an id that the server has not given out.
const FUTURE: &str = "in the future";

async fn status(xid: u64, client: &Client) -> Result<Option<String>, PgError> {
    match client.simple_query(&format!("SELECT pg_catalog.pg_xact_status('{xid}')")).await {
        Ok(messages) => Ok(last_row(&messages).and_then(|row| row.get(0)).map(str::to_owned)),
        Err(error) if Failure::from_driver(&error).is_invalid_value() => Ok(Some(FUTURE.to_owned())),
        Err(error) => Err(error),
    }
}

/// Ends the session that still runs this very transaction, and no other: behind a pooler, a process has many clients.
/// One that may be waiting for a synchronous standby is left alone, as that would end the wait, not the transaction.
async fn end_session(xact: &Xact, client: &Client) -> Result<(), PgError> {
    let (xid, pid) = (xact.xid, xact.pid);
    let sql = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
         WHERE pid OPERATOR(pg_catalog.=) {pid} \
         AND backend_xid OPERATOR(pg_catalog.=) '{xid}'::pg_catalog.xid8::pg_catalog.xid \
         AND (pg_catalog.starts_with(state, 'idle in transaction') \
         OR pg_catalog.current_setting('synchronous_standby_names') OPERATOR(pg_catalog.=) '')"
    );
    match client.batch_execute(&sql).await {
        Err(error) if Failure::from_driver(&error).is_unsupported() => Ok(()),
        result => result,
    }
}
