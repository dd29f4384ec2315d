//! The reply to COMMIT and, if locks are released early, to the flush that follows it in the same flight.

use std::task::{Context, Poll, ready};

use tokio_postgres::{Client, Error as PgError};

use crate::driver::reply::Reply;

/// The replies to a message that commits and to one that flushes, both sent.
#[derive(Debug)]
pub(crate) struct CommitReply {
    commit: Reply,
    has_committed: bool,
    flush: Option<Result<Reply, PgError>>,
}

impl CommitReply {
    /// Sends the message that commits now, and the one that flushes after it. An error: neither was sent.
    pub(crate) fn send(client: &Client, commit: &str, flush: Option<&str>) -> Result<Self, PgError> {
        let commit = Reply::send(client, commit)?;
        Ok(Self { commit, has_committed: false, flush: flush.map(|sql| Reply::send(client, sql)) })
    }

    /// Waits for the end of the reply to COMMIT, or its first error.
    pub(crate) fn poll_commit(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PgError>> {
        if !self.has_committed {
            ready!(self.commit.poll_end(cx))?;
            self.has_committed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the end of the reply to the flush, or its first error. At once if there is none.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PgError>> {
        match &mut self.flush {
            Some(Ok(reply)) => ready!(reply.poll_end(cx))?,
            Some(Err(_)) => {
                if let Some(Err(error)) = self.flush.take() {
                    return Poll::Ready(Err(error));
                }
            }
            None => {}
        }
        self.flush = None;
        Poll::Ready(Ok(()))
    }

    /// Whether COMMIT has succeeded, and its flush has no reply yet.
    pub(crate) fn is_flush_pending(&self) -> bool {
        self.has_committed && self.flush.is_some()
    }

    /// How many statements of the message that commits have succeeded so far.
    pub(crate) fn completed(&self) -> u32 {
        self.commit.completed()
    }
}
