//! The beginning of an attempt: BEGIN, or SAVEPOINT where the call is nested.

use tokio_postgres::Error as PgError;

use crate::classify::Failure;
use crate::deadline::Expired;
use crate::error::{Error, Phase};
use crate::events;
use crate::handle::{Handle, Savepoint};
use crate::identity::Identity;
use crate::policy::Isolation;
use crate::run::{Refused, Site};
use crate::transaction::{Mark, Transaction};

/// Sends BEGIN. The transaction is open as far as anyone can tell from before it leaves: dropped, it is rolled back.
pub(crate) async fn transaction(handle: Handle<'_>) -> Result<Transaction<'_>, Refused> {
    let Handle { state, site, deadline, .. } = handle;
    state.set_dirty(true);
    let mut tx = Transaction { handle, savepoint: None, ended: false };
    let answer = match deadline.bound(send(&handle)).await {
        Ok(answer) => answer,
        Err(Expired) => return Err(Refused::new(Error::deadline(Phase::Begin), None, &site.policy)),
    };
    let Err(error) = answer else { return Ok(tx) };
    tx.ended = true;
    let failure = Failure::at_begin(&error);
    let error = if site.policy.asks_identity() && failure.is_unsupported() {
        Error::ResolveUnsupported(error)
    } else {
        Error::Postgres(error)
    };
    let lost = failure.lost;
    let refused = Refused::new(error, Some(failure), &site.policy);
    if lost {
        return Err(refused);
    }
    // A setting or a question that the server refuses leaves the transaction open.
    match deadline.bound(handle.rollback()).await {
        Ok(Ok(())) => {
            state.set_dirty(false);
            Err(refused)
        }
        Ok(Err(_)) => Err(refused.discard()),
        Err(Expired) => Err(refused),
    }
}

/// Sends BEGIN, and once more where it finds a transaction that somebody left open.
async fn send(handle: &Handle<'_>) -> Result<(), PgError> {
    let Err(error) = send_once(handle).await else { return Ok(()) };
    let failure = Failure::at_begin(&error);
    if failure.is_open_transaction() && handle.rollback().await.is_ok() {
        events::left_open(handle.site, handle.attempt, &failure);
        return send_once(handle).await;
    }
    Err(error)
}

async fn send_once(handle: &Handle<'_>) -> Result<(), PgError> {
    let Handle { client, state, site, .. } = handle;
    if !site.policy.asks_identity() {
        return client.batch_execute(site.begin_sql()).await;
    }
    let messages = client.simple_query(site.begin_sql()).await?;
    if let Some(identity) = Identity::read(&messages) {
        state.set_identity(identity);
    }
    Ok(())
}

/// Begins a nested call: a savepoint of the transaction around it.
pub(crate) async fn savepoint<'a>(parent: Handle<'a>, inner: &'static Site) -> Result<Transaction<'a>, Refused> {
    let outer = parent.site;
    let promised = outer.policy.isolation.unwrap_or(Isolation::ReadCommitted);
    if inner.policy.isolation.is_some_and(|wanted| wanted > promised) {
        let error = Error::NestedIsolation { outer: outer.name, inner: inner.name };
        return Err(Refused::new(error, None, &inner.policy));
    }
    let handle = Handle { depth: parent.depth + 1, ..parent };
    let mark = Mark { seen: handle.state.seen(), hooks: handle.state.with_hooks(|hooks| hooks.len()) };
    let mut tx = Transaction { handle, savepoint: Some(mark), ended: false };
    let mut ticket = handle.state.send();
    let answer = handle.client.batch_execute(&format!("SAVEPOINT {}", Savepoint(handle.depth))).await;
    ticket.answered(answer.as_ref().err());
    match answer {
        Ok(()) => Ok(tx),
        Err(error) => {
            // There is no savepoint to roll back to.
            tx.ended = true;
            Err(Refused::new(Error::Postgres(error), None, &inner.policy))
        }
    }
}
