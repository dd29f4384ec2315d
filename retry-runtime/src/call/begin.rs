//! The beginning of an attempt: BEGIN, or SAVEPOINT if the call is nested.

use std::future::poll_fn;

use crate::call::callsite::Callsite;
use crate::call::outcome::AttemptOutcome;
use crate::call::retry::RetryCause;
use crate::driver::{self, DriverError, Reply};
use crate::error::{Error, Phase};
use crate::events::Event;
use crate::policy::{Begin, Isolation};
use crate::transaction::Transaction;
use crate::transaction::context::{SavepointName, TxContext};
use crate::transaction::deadline::Expired;
use crate::transaction::savepoint;

/// Sends BEGIN, and waits for the reply unless BEGIN is pipelined. If the call is dropped from here on, the transaction is
/// rolled back.
pub(crate) async fn transaction<'a>(context: TxContext<'a>, sql: &str) -> Result<Transaction<'a>, AttemptOutcome> {
    context.status.set_in_transaction(true);
    let mut tx = Transaction::new(context, None);
    let reply = match send(&context, sql) {
        Ok(()) if context.policy.begin() == Begin::Pipelined => return Ok(tx),
        Ok(()) => context.deadline.bound(reply_or_again(&context, sql)).await,
        Err(error) => Ok(Err(error)),
    };
    tx.ended = matches!(reply, Ok(Err(_)));
    result_of(&context, reply).await?;
    Ok(tx)
}

/// Waits for the reply to a pipelined BEGIN. A nested call does not wait: the outermost call does.
pub(crate) async fn wait_for_reply(context: &TxContext<'_>) -> Result<(), AttemptOutcome> {
    if context.depth > 0 || !context.status.is_begin_pending() {
        return Ok(());
    }
    result_of(context, context.deadline.bound(reply(context)).await).await
}

/// Turns the reply to BEGIN, or its absence, into a result. If BEGIN failed, rolls back.
async fn result_of(
    context: &TxContext<'_>,
    reply: Result<Result<(), DriverError>, Expired>,
) -> Result<(), AttemptOutcome> {
    match reply {
        Ok(Ok(())) => Ok(()),
        // Boxed, because it is rare, and every call's future would otherwise be that much larger.
        Ok(Err(error)) => Err(Box::pin(failed(context, error)).await),
        Err(Expired) => Err(AttemptOutcome::not_begun(Error::deadline(Phase::Begin), None, None)),
    }
}

fn send(context: &TxContext<'_>, sql: &str) -> Result<(), DriverError> {
    context.status.begin_sent(Reply::send(context.client, sql)?);
    Ok(())
}

async fn reply(context: &TxContext<'_>) -> Result<(), DriverError> {
    poll_fn(|cx| context.status.poll_begin(cx)).await;
    context.status.take_begin_error().map_or(Ok(()), Err)
}

/// Waits for the reply, and sends BEGIN once more if BEGIN found a transaction that other code had left open.
async fn reply_or_again(context: &TxContext<'_>, sql: &str) -> Result<(), DriverError> {
    let Err(error) = reply(context).await else { return Ok(()) };
    Box::pin(again(context, sql, error)).await
}

async fn again(context: &TxContext<'_>, sql: &str, error: DriverError) -> Result<(), DriverError> {
    let failure = driver::failure_of(&error).at_begin();
    if failure.is_open_transaction() && context.roll_back().await.is_ok() {
        context.id.emit(Event::RolledBackLeftOpen, Some(&failure));
        send(context, sql)?;
        return reply(context).await;
    }
    Err(error)
}

/// Rolls back after a failed BEGIN: if a `SET` or the identity query in its message failed, the transaction is open.
async fn failed(context: &TxContext<'_>, error: DriverError) -> AttemptOutcome {
    let failure = driver::failure_of(&error).at_begin();
    let error = if context.policy.asks_identity() && failure.is_unsupported() {
        Error::ResolveUnsupported(error.into())
    } else {
        Error::from(error)
    };
    let (ends_session, left_open) = (failure.ends_session, failure.is_open_transaction());
    let cause = if left_open {
        context.id.emit(Event::RolledBackLeftOpen, Some(&failure));
        Some(RetryCause::LeftOpen)
    } else if failure.is_canceled() {
        Some(RetryCause::BeginCanceled)
    } else {
        RetryCause::of(&failure, context.policy)
    };
    let outcome = AttemptOutcome::not_begun(error, Some(failure), cause);
    if ends_session {
        return outcome;
    }
    match context.deadline.bound(context.roll_back()).await {
        Ok(Ok(())) => {
            context.status.set_in_transaction(false);
            outcome
        }
        Ok(Err(_)) => AttemptOutcome { session_broken: true, ..outcome },
        Err(Expired) => outcome,
    }
}

/// Begins a nested call: a savepoint of the transaction around it.
pub(crate) async fn nested<'a>(
    parent: TxContext<'a>,
    inner: &'static Callsite,
) -> Result<Transaction<'a>, AttemptOutcome> {
    if inner.policy.durable {
        let error = Error::NestedDurable { outer: parent.function, inner: inner.name };
        return Err(AttemptOutcome::not_begun(error, None, None));
    }
    let promised = parent.policy.isolation.unwrap_or(Isolation::ReadCommitted);
    if inner.policy.isolation.is_some_and(|wanted| wanted > promised) {
        let error = Error::NestedIsolation { outer: parent.id.function, inner: inner.name };
        return Err(AttemptOutcome::not_begun(error, None, None));
    }
    let context = TxContext { depth: parent.depth + 1, function: inner.name, ..parent };
    let begun = savepoint::begin(context, &SavepointName(context.depth)).await;
    begun.map_err(|error| AttemptOutcome::not_begun(Error::from(error), None, None))
}
