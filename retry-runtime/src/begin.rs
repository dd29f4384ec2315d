//! The beginning of an attempt: BEGIN, or SAVEPOINT where the call is nested.

use std::future::poll_fn;

use tokio_postgres::Error as PgError;

use crate::answer::Answer;
use crate::classify::Failure;
use crate::deadline::Expired;
use crate::decide::Cause;
use crate::error::{Error, Phase};
use crate::events;
use crate::handle::{Handle, Savepoint};
use crate::policy::{Begin, Isolation};
use crate::run::{Refused, Site};
use crate::transaction::{Mark, Transaction};

/// Sends BEGIN, and waits for its answer unless that is pipelined. The transaction is open as far as anyone can tell
/// from before BEGIN leaves: dropped, it is rolled back.
pub(crate) async fn transaction(handle: Handle<'_>) -> Result<Transaction<'_>, Refused> {
    let Handle { state, site, deadline, .. } = handle;
    state.set_dirty(true);
    let mut tx = Transaction { handle, savepoint: None, ended: false };
    let answer = match send(&handle) {
        Ok(()) if site.policy.begin() == Begin::Pipelined => return Ok(tx),
        Ok(()) => deadline.bound(answer_or_again(&handle)).await,
        Err(error) => Ok(Err(error)),
    };
    tx.ended = matches!(answer, Ok(Err(_)));
    conclude(&handle, answer).await?;
    Ok(tx)
}

/// Waits until a pipelined BEGIN is answered. In a nested call that is the outermost one's to do.
pub(crate) async fn answered(handle: &Handle<'_>) -> Result<(), Refused> {
    if handle.depth > 0 || !handle.state.begun.is_pending() {
        return Ok(());
    }
    conclude(handle, handle.deadline.bound(answer(handle)).await).await
}

/// What the answer to BEGIN, or the want of one, comes to.
async fn conclude(handle: &Handle<'_>, answer: Result<Result<(), PgError>, Expired>) -> Result<(), Refused> {
    match answer {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(refuse(handle, error).await),
        Err(Expired) => Err(Refused::new(Error::deadline(Phase::Begin), None, None)),
    }
}

fn send(handle: &Handle<'_>) -> Result<(), PgError> {
    handle.state.begun.sent(Answer::send(handle.client, handle.site.begin_sql())?);
    Ok(())
}

async fn answer(handle: &Handle<'_>) -> Result<(), PgError> {
    let begun = &handle.state.begun;
    poll_fn(|cx| begun.poll(cx)).await;
    begun.take_error().map_or(Ok(()), Err)
}

/// Waits for the answer, and sends BEGIN once more where it found a transaction that somebody had left open.
async fn answer_or_again(handle: &Handle<'_>) -> Result<(), PgError> {
    let Err(error) = answer(handle).await else { return Ok(()) };
    let failure = Failure::at_begin(&error);
    if failure.is_open_transaction() && handle.rollback().await.is_ok() {
        events::left_open(handle.site, handle.attempt, &failure);
        send(handle)?;
        return answer(handle).await;
    }
    Err(error)
}

/// BEGIN has failed. A setting or a question that the server refuses leaves the transaction open.
async fn refuse(handle: &Handle<'_>, error: PgError) -> Refused {
    let Handle { state, site, .. } = handle;
    let failure = Failure::at_begin(&error);
    let error = if site.policy.asks_identity() && failure.is_unsupported() {
        Error::ResolveUnsupported(error)
    } else {
        Error::Postgres(error)
    };
    let (lost, left_open) = (failure.lost, failure.is_open_transaction());
    let cause = if left_open {
        events::left_open(site, handle.attempt, &failure);
        Some(Cause::LeftOpen)
    } else if failure.is_canceled() {
        Some(Cause::BeginCanceled)
    } else {
        Cause::of(&failure, &site.policy)
    };
    let refused = Refused::new(error, Some(failure), cause);
    if lost {
        return refused;
    }
    match handle.deadline.bound(handle.rollback()).await {
        Ok(Ok(())) => {
            state.set_dirty(false);
            refused
        }
        Ok(Err(_)) => refused.discard(),
        Err(Expired) => refused,
    }
}

/// Begins a nested call: a savepoint of the transaction around it.
pub(crate) async fn savepoint<'a>(parent: Handle<'a>, inner: &'static Site) -> Result<Transaction<'a>, Refused> {
    let outer = parent.site;
    let promised = outer.policy.isolation.unwrap_or(Isolation::ReadCommitted);
    if inner.policy.isolation.is_some_and(|wanted| wanted > promised) {
        let error = Error::NestedIsolation { outer: outer.name, inner: inner.name };
        return Err(Refused::new(error, None, None));
    }
    let handle = Handle { depth: parent.depth + 1, function: inner.name, ..parent };
    // Dropped in this wait, there is no savepoint to roll back to.
    poll_fn(|cx| handle.state.poll_may_send(cx)).await;
    let mark = Mark { seen: handle.state.seen(), hooks: handle.state.with_hooks(|hooks| hooks.len()) };
    let mut tx = Transaction { handle, savepoint: Some(mark), ended: false };
    match handle.execute(&format!("SAVEPOINT {}", Savepoint(handle.depth))).await {
        Ok(()) => Ok(tx),
        Err(error) => {
            // There is no savepoint to roll back to.
            tx.ended = true;
            Err(Refused::new(Error::Postgres(error), None, None))
        }
    }
}
