//! What one attempt has seen, as plain data.

use crate::classify::Failure;
use crate::driver::CommitReply;
use crate::error::Error;
#[cfg(feature = "testing")]
use crate::testing::attempt::AttemptFaults;
use crate::transaction::begin_reply::BeginReply;
use crate::transaction::hooks::Hooks;
use crate::transaction::seen::{Recorded, Seen};

#[derive(Debug, Default)]
pub(super) struct Status {
    /// Statements sent so far. The first is number 0.
    pub(super) sent: u32,
    /// How many of them have neither ended nor been given up.
    pub(super) open: u32,
    /// If a failure may have gone unseen: the number of the first statement sent after that. When that statement or a
    /// later one succeeds, nothing had failed.
    pub(super) unproven_since: Option<u32>,
    /// What may have ended the transaction, if anything may.
    pub(super) suspect: Option<Suspect>,
    /// From before BEGIN is sent until COMMIT or ROLLBACK is acknowledged.
    pub(super) in_transaction: bool,
    /// Whether the deadline has cut the body off. If so: whether the body waited for the server then.
    pub(super) expired_in_statement: Option<bool>,
    pub(super) begin: BeginReply,
    pub(super) seen: Seen,
    /// The error of the first sent statement that failed, and the statement.
    pub(super) sent_error: Option<Box<(u32, Error)>>,
    /// A rollback to a savepoint has undone statements before this one, or they had succeeded. A failure of theirs counts
    /// only if it is a conflict, even if its reply is read later.
    pub(super) forgiven: u32,
    /// Whether a failure of one of them was seen. A later symptom in the body's own error may be of that failure.
    pub(super) forgave_failure: bool,
    pub(super) hooks: Hooks,
    pub(super) interrupt: Interrupt,
    /// The reply to COMMIT, while it or its flush is waited for.
    pub(super) commit: Option<CommitReply>,
    #[cfg(feature = "testing")]
    pub(super) faults: AttemptFaults,
}

/// What may have ended or aborted the transaction without being seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspect {
    /// A statement that may have been `COMMIT` or `ROLLBACK`.
    Command,
    /// The driver's own client, whose statements are not watched.
    RawClient,
}

/// Whether the runtime has cancelled a statement, to end a deadlock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Interrupt {
    #[default]
    None,
    /// The cancel request is on its way. It may hit a later statement.
    Sent,
    /// The server has acted on it.
    Done,
}

/// What a rollback to a savepoint restores.
#[derive(Debug)]
pub(crate) struct SavepointMark {
    seen: Seen,
    /// How many hooks there were.
    hooks: usize,
    /// How many statements were sent.
    pub(super) sent: u32,
}

impl Status {
    pub(super) fn send(&mut self) -> u32 {
        self.sent += 1;
        self.open += 1;
        self.sent - 1
    }

    pub(super) fn all_is_well(&self) -> bool {
        let is_proven = self.open == 0 && self.unproven_since.is_none() && self.suspect.is_none();
        is_proven && self.seen.failure.is_none() && self.sent_error.is_none()
    }

    /// If the body has used the driver's client, a symptom means that one of its statements had failed unseen.
    pub(super) fn record(&mut self, statement: u32, failure: Failure) {
        if statement < self.forgiven && !is_final(&failure) {
            return;
        }
        if failure.is_symptom() && self.suspect == Some(Suspect::RawClient) {
            self.seen.leave_unanswered(0);
        }
        self.seen.record(Recorded { statement, failure });
    }

    /// The body has returned an error with this failure.
    pub(super) fn record_of_body(&mut self, failure: Failure) {
        let may_be_forgiven = self.forgave_failure && self.suspect != Some(Suspect::RawClient);
        let is_explained = failure.is_symptom() && self.seen.failure.is_none() && may_be_forgiven;
        if !is_explained {
            self.record(self.sent, failure);
        }
    }

    /// A failure may have gone unseen.
    pub(super) fn doubt(&mut self) {
        self.unproven_since = Some(self.sent);
    }

    /// A statement has succeeded that could not have in an aborted transaction.
    pub(super) fn prove(&mut self, statement: u32) {
        if self.unproven_since.is_some_and(|since| since <= statement) {
            self.unproven_since = None;
        }
    }

    pub(super) fn mark(&self) -> SavepointMark {
        SavepointMark { seen: self.seen.clone(), hooks: self.hooks.len(), sent: self.sent }
    }

    pub(super) fn roll_back_to(&mut self, mark: SavepointMark) -> Hooks {
        let undone = self.hooks.roll_back_to(mark.hooks);
        self.forgiven = self.sent;
        self.sent_error.take_if(|sent_error| sent_error.0 >= mark.sent);
        let is_final = self.seen.failure.as_ref().is_some_and(|recorded| is_final(&recorded.failure));
        if !is_final && !self.seen.cause_unseen() {
            self.forgave_failure |= self.seen.failure.as_ref().is_some_and(|recorded| !recorded.failure.is_symptom());
            self.seen = mark.seen;
        }
        undone
    }
}

/// Whether a rollback to a savepoint does not forgive it: it ends the whole attempt.
fn is_final(failure: &Failure) -> bool {
    failure.class.is_conflict() || failure.ends_session
}
