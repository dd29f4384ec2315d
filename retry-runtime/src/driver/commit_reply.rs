//! The reply to COMMIT and, if locks are released early, to the flush that follows it in the same flight.

use std::task::{Context, Poll, ready};

use tokio_postgres::{Client, Error as PgError};

use crate::driver::reply::Reply;

/// The statement that flushes what COMMIT has committed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flush<'a> {
    /// There is none.
    None,
    /// In the message of COMMIT. Both replies arrive together.
    SameMessage(&'a str),
    /// In a message of its own. The reply to COMMIT arrives earlier.
    NextMessage(&'a str),
}

/// The replies to COMMIT and to its flush, both sent.
#[derive(Debug)]
pub(crate) struct CommitReply {
    commit: Reply,
    /// The statements of its message up to COMMIT.
    statements: u32,
    has_committed: bool,
    /// The reply to the flush, or why there is none.
    flush: Option<Result<Reply, PgError>>,
}

impl CommitReply {
    /// Sends now: the message that commits, with this number of `statements`, and the flush. An error: nothing was sent.
    pub(crate) fn send(client: &Client, commit: &str, statements: u32, flush: Flush<'_>) -> Result<Self, PgError> {
        let commit = match flush {
            Flush::SameMessage(flush) => Reply::send(client, &format!("{commit}; {flush}"))?,
            _ => Reply::send(client, commit)?,
        };
        let flush = match flush {
            Flush::NextMessage(sql) => Some(Reply::send(client, sql)),
            _ => None,
        };
        Ok(Self { commit, statements, has_committed: false, flush })
    }

    /// Waits for the reply to COMMIT, or the first error up to it.
    pub(crate) fn poll_commit(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PgError>> {
        if !self.has_committed {
            match ready!(self.commit.poll_end(cx)) {
                Ok(()) => {}
                // It is of the flush in the same message.
                Err(error) if self.commit.completed() >= self.statements => self.flush = Some(Err(error)),
                Err(error) => return Poll::Ready(Err(error)),
            }
            self.has_committed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the end of the reply to the flush, or its first error. At once if there is none.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PgError>> {
        if let Some(Ok(reply)) = &mut self.flush {
            ready!(reply.poll_end(cx))?;
        }
        Poll::Ready(self.flush.take().map_or(Ok(()), |flush| flush.map(drop)))
    }

    /// Whether COMMIT has succeeded, and its flush has no reply yet, or has failed.
    pub(crate) fn is_flush_pending(&self) -> bool {
        self.has_committed && self.flush.is_some()
    }

    /// How many statements of the message that commits have succeeded so far.
    pub(crate) fn completed(&self) -> u32 {
        self.commit.completed()
    }
}
