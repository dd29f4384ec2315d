//! Faults for tests: before BEGIN, at a statement, and around COMMIT.

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio_postgres::{Client, Error};

use crate::driver;
use crate::pool::BoxFuture;
use crate::testing::attempt::AttemptFaults;
use crate::testing::fault::{Fault, close};
use crate::transaction::context::TxContext;
use crate::transaction::status::AttemptStatus;

pin_project! {
    /// A statement that a fault may replace, or delay.
    pub(crate) struct Replaceable<'a, F> {
        #[pin]
        statement: F,
        client: &'a Client,
        status: &'a AttemptStatus,
        has_left: bool,
        fault: Option<BoxFuture<'a, Result<(), Error>>>,
    }
}

impl<'a, F> Replaceable<'a, F> {
    pub(crate) fn new(statement: F, client: &'a Client, status: &'a AttemptStatus) -> Self {
        Self { statement, client, status, has_left: false, fault: None }
    }
}

impl<T, F: Future<Output = Result<T, Error>>> Future for Replaceable<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if !std::mem::replace(this.has_left, true) {
            let fault = this.status.with_faults(AttemptFaults::before_statement);
            *this.fault = fault.map(|fault| raise(fault, this.client));
        }
        if let Some(fault) = this.fault {
            ready!(fault.as_mut().poll(cx))?;
            *this.fault = None;
        }
        this.statement.poll(cx)
    }
}

/// Raises the fault. If it returns no error, the statement follows.
fn raise(fault: Fault, client: &Client) -> BoxFuture<'_, Result<(), Error>> {
    Box::pin(async move {
        if fault == Fault::ConnectionClosed {
            // The statement itself fails.
            drop(close(client).await);
            return Ok(());
        }
        driver::run(client, &fault.sql()).await
    })
}

/// A fault just before COMMIT.
#[derive(Debug)]
pub(crate) enum BeforeCommit {
    /// This statement comes first in the message that commits. It fails, or waits.
    Statement(Cow<'static, str>),
    /// The connection is closed, and COMMIT cannot be sent.
    Closed(Error),
    /// As if COMMIT had been sent: there is no reply.
    NoReply(Error),
}

impl TxContext<'_> {
    /// Closes the connection before BEGIN leaves, if a fault says so.
    pub(crate) async fn fault_before_begin(&self) {
        if self.status.with_faults(AttemptFaults::closes_before_begin) {
            drop(close(self.client).await);
        }
    }

    /// The fault just before COMMIT, if there is one. Closes the connection if it says so.
    pub(crate) async fn fault_before_commit(&self) -> Option<BeforeCommit> {
        match self.status.with_faults(AttemptFaults::before_commit)? {
            Fault::ConnectionClosed => close(self.client).await.map(BeforeCommit::Closed),
            Fault::CommitUnknown { .. } => close(self.client).await.map(BeforeCommit::NoReply),
            fault => Some(BeforeCommit::Statement(fault.sql())),
        }
    }

    /// COMMIT has succeeded. If its reply must not have arrived: closes the connection, and returns the error that is seen
    /// in place of the reply.
    pub(crate) async fn fault_after_commit(&self) -> Option<Error> {
        if !self.status.with_faults(AttemptFaults::hides_commit) {
            return None;
        }
        // The reply to a flush that follows COMMIT is not waited for either.
        drop(self.status.take_commit());
        close(self.client).await
    }
}

/// Adds a statement before COMMIT, which is the last of the message.
pub(crate) fn add_before_commit(message: &str, statement: &str) -> Cow<'static, str> {
    let (before, commit) = message.split_at(message.len() - "COMMIT".len());
    Cow::Owned(format!("{before}{statement}; {commit}"))
}
