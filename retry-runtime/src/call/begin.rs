//! The beginning of an attempt: BEGIN, or SAVEPOINT if the call is nested.

use std::borrow::Cow;
use std::future::poll_fn;
use std::sync::Arc;

use crate::call::begin_sql::BeginSql;
use crate::call::callsite::{Function, Shared};
use crate::call::outcome::AttemptOutcome;
use crate::call::retry::RetryCause;
use crate::call::server_timeout::{ServerTimeout, SessionTimeout};
use crate::classify::Class;
use crate::driver::{self, DriverError, Reply};
use crate::error::{Error, Phase};
use crate::events::Event;
use crate::events::spans::SpanRef;
use crate::policy::{Begin, Isolation, Policy, Queue};
use crate::transaction::context::{SavepointName, TxContext};
use crate::transaction::deadline::Expired;
use crate::transaction::pipeline::Pipeline;
use crate::transaction::savepoint;
use crate::transaction::status::BlindSpots;
use crate::transaction::{self, Transaction};

/// The message that begins a transaction, but for the timeout in it.
#[derive(Clone, Copy)]
struct BeginMessage<'a> {
    sql: &'a BeginSql,
    locks: &'a str,
    /// Whether it checks that the server can flush as early release needs it.
    checks: bool,
}

impl<'a> BeginMessage<'a> {
    fn with(self, timeout: ServerTimeout) -> Cow<'a, str> {
        self.sql.with(timeout, self.locks, self.checks)
    }
}

/// Sends BEGIN, and waits for the reply unless BEGIN is pipelined. If the call is dropped from here on, the transaction is
/// rolled back. `locks`: the statement that locks the call's keys in the server, if it does. `shared`: what is known of the
/// pool's sessions.
pub(crate) async fn transaction<'a>(
    context: TxContext<'a>,
    sql: &BeginSql,
    locks: &str,
    shared: Option<&Shared>,
) -> Result<Transaction<'a>, AttemptOutcome> {
    let session = shared.map(|shared| &shared.session_timeout);
    let mut timeout = ServerTimeout::new(context.deadline, context.policy, session);
    let checks = context.policy.early_release && !shared.is_some_and(Shared::can_flush);
    let mut pipelined = context.policy.begin() == Begin::Pipelined;
    if pipelined && (timeout.asks() || checks) {
        // On a pool, the first call waits for the reply, and others use it.
        pipelined = shared.is_none();
        timeout = if pipelined { ServerTimeout::Keep } else { timeout };
    }
    context.status.set_in_transaction(true);
    let mut tx = Transaction::new(context);
    let begin = BeginMessage { sql, locks, checks };
    let message = begin.with(timeout);
    let reply = match send(&context, &message) {
        Ok(()) if pipelined => return Ok(tx),
        Ok(()) if timeout.asks() => {
            // Boxed, because it is rare, and every call's future would otherwise be that much larger.
            let reply = Box::pin(reply_and_timeout(&context, &message, begin, timeout, session));
            context.deadline.bound(reply).await
        }
        Ok(()) => context.deadline.bound(reply_or_again(&context, &message)).await,
        Err(error) => Ok(Err(error)),
    };
    tx.ended = matches!(reply, Ok(Err(_)));
    result_of(&context, reply).await?;
    if let (true, Some(shared)) = (checks, shared) {
        shared.set_can_flush();
    }
    Ok(tx)
}

/// Waits for the reply to BEGIN and to the question for the session's timeout. If the server refuses the question, sends
/// BEGIN without it.
async fn reply_and_timeout(
    context: &TxContext<'_>,
    message: &str,
    begin: BeginMessage<'_>,
    timeout: ServerTimeout,
    session: Option<&SessionTimeout>,
) -> Result<(), DriverError> {
    let Err(error) = reply_or_again(context, message).await else {
        timeout.learn(context.status.take_begin_row().as_ref(), context.client, session);
        return Ok(());
    };
    let failure = driver::failure_of(&error);
    let is_refused = failure.class == Class::Fatal && !failure.ends_session && !failure.is_canceled();
    if !is_refused || context.roll_back().await.is_err() {
        return Err(error);
    }
    send(context, &begin.with(ServerTimeout::Keep))?;
    reply(context).await?;
    ServerTimeout::refused(session);
    Ok(())
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
    let failure = driver::failure_of(&error);
    if failure.is_open_transaction() && context.roll_back().await.is_ok() {
        context.id.emit(Event::RolledBackLeftOpen, Some(&failure));
        send(context, sql)?;
        return reply(context).await;
    }
    Err(error)
}

/// Rolls back after a failed BEGIN: if another statement of its message failed, the transaction is open.
async fn failed(context: &TxContext<'_>, error: DriverError) -> AttemptOutcome {
    let failure = driver::failure_of(&error);
    if context.was_canceled_at_deadline(&failure) {
        return AttemptOutcome::not_begun(Error::deadline(Phase::Begin), None, None);
    }
    let locks = context.policy.queue == Queue::Server;
    let error = if locks && failure.is_missing_table() {
        Error::QueueUnsupported(error.into())
    } else if context.policy.early_release && failure.is_unknown_to_server() {
        Error::EarlyReleaseUnsupported(error.into())
    } else if context.policy.asks_identity() && failure.is_unsupported() {
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
pub(crate) async fn nested<'a>(parent: &Transaction<'a>, inner: &Function) -> Result<Transaction<'a>, AttemptOutcome> {
    let Transaction { context, pipeline, .. } = parent;
    may_nest(context, context.function, inner.name, &inner.policy).await?;
    #[cfg(feature = "testing")]
    context.status.with_faults(|faults| faults.nested(inner.name));
    let context = TxContext { depth: context.depth + 1, function: inner.name, span: SpanRef::default(), ..*context };
    savepoint(context, pipeline.clone()).await
}

/// Begins a call in a transaction of the driver's: a savepoint of it, with a deadline of its own.
pub(crate) async fn in_driver_transaction(outer: TxContext<'_>) -> Result<Transaction<'_>, AttemptOutcome> {
    outer.status.set_in_transaction(true);
    let begin = async {
        may_nest(&outer, driver::TRANSACTION, outer.function, outer.policy).await?;
        savepoint(TxContext { depth: 1, ..outer }, transaction::pipeline(&outer)).await
    };
    let expired = |Expired| AttemptOutcome::not_begun(Error::deadline(Phase::Begin), None, None);
    outer.deadline.bound(begin).await.map_err(expired)?
}

async fn savepoint<'a>(
    context: TxContext<'a>,
    pipeline: Arc<dyn Pipeline + 'a>,
) -> Result<Transaction<'a>, AttemptOutcome> {
    let begun = savepoint::begin(context, pipeline, &SavepointName(context.depth)).await;
    begun.map_err(|error| AttemptOutcome::not_begun(Error::from(error), None, None))
}

/// Refuses a call that the body of `outer` must not make in its transaction.
async fn may_nest(
    context: &TxContext<'_>,
    outer: &'static str,
    inner: &'static str,
    policy: &Policy,
) -> Result<(), AttemptOutcome> {
    let refused = |error| Err(AttemptOutcome::not_begun(error, None, None));
    if policy.durable {
        return refused(Error::NestedDurable { outer, inner });
    }
    let Some(wanted) = policy.isolation else { return Ok(()) };
    let (level, began_by) = if context.in_driver_transaction {
        // Boxed, because it is rare, and every call's future would otherwise be that much larger.
        match Box::pin(isolation_of(context)).await {
            Ok(level) => (level, driver::TRANSACTION),
            Err(error) => return refused(Error::from(error)),
        }
    } else {
        (context.policy.isolation, context.id.function)
    };
    if wanted > level.unwrap_or(Isolation::ReadCommitted) {
        return refused(Error::NestedIsolation { outer: began_by, inner });
    }
    Ok(())
}

/// The isolation level of a transaction that other code began.
async fn isolation_of(context: &TxContext<'_>) -> Result<Option<Isolation>, DriverError> {
    let mut statement = context.status.send(BlindSpots::default());
    let row = driver::ask(context.client, "SHOW transaction_isolation").await;
    statement.answered(row.as_ref().err());
    Ok(row?.and_then(|row| Isolation::from_sql(row.get(0)?)))
}
