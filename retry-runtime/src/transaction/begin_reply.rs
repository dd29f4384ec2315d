//! The reply to BEGIN: waited for, or read while the body's first statement is already on its way.

use std::task::{Context, Poll, Waker, ready};

use crate::driver::{DriverError, Reply, Row};

/// What is known of an attempt's BEGIN.
#[derive(Debug, Default)]
pub(crate) struct BeginReply {
    /// Whether BEGIN has no reply yet, or has failed.
    pending: bool,
    /// Whether a sent statement was held back until then. No other statement may overtake it.
    pub(crate) has_held_back: bool,
    reply: Option<Reply>,
    pub(crate) error: Option<DriverError>,
    /// The rows that the message returned, one for each question in it.
    pub(crate) rows: Vec<Row>,
    /// The statements that wait for the reply.
    waiting: Vec<Waker>,
}

impl BeginReply {
    /// BEGIN was sent.
    pub(crate) fn sent(reply: Reply) -> Self {
        Self { pending: true, reply: Some(reply), ..Self::default() }
    }

    /// A BEGIN that gets no reply.
    #[cfg(test)]
    pub(crate) fn unanswered() -> Self {
        Self { pending: true, ..Self::default() }
    }

    /// Whether BEGIN has no reply yet, or has failed: no statement that relies on it may leave.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending
    }

    /// Reads the reply. `false`: BEGIN has failed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while let Some(reply) = &mut self.reply {
            match ready!(reply.poll_row(cx)) {
                Some(Ok(row)) => self.rows.push(row),
                Some(Err(error)) => {
                    self.reply = None;
                    self.error = Some(error);
                }
                None => {
                    self.reply = None;
                    self.pending = false;
                }
            }
        }
        Poll::Ready(!self.pending)
    }

    /// Wakes this task once BEGIN has succeeded.
    pub(crate) fn wait(&mut self, cx: &Context<'_>) {
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
    }

    /// What waited for BEGIN, once it has succeeded.
    pub(crate) fn take_woken(&mut self) -> Vec<Waker> {
        if self.pending { Vec::new() } else { std::mem::take(&mut self.waiting) }
    }
}
