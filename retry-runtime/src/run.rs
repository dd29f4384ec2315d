//! The retry loop's three steps: begin, (settle,) next.

use std::ops::ControlFlow;
use std::sync::OnceLock;

use tokio::time::sleep;

use crate::classify::Failure;
use crate::decide::{Cause, Spent};
use crate::error::Error;
use crate::events;
use crate::handle::{Handle, Savepoint};
use crate::hooks::When;
use crate::policy::{Isolation, Policy};
use crate::settle::{End, Ended};
use crate::source::{Kind, Session, Source};
use crate::state::State;
use crate::transaction::{Mark, Transaction};

/// A `#[transactional]` function: its name and what it asks for.
#[derive(Debug)]
pub struct Site {
    pub(crate) name: &'static str,
    pub(crate) policy: Policy,
    begin: OnceLock<String>,
}

impl Site {
    /// Checks the policy: in a `static`, while compiling.
    #[must_use]
    pub const fn new(name: &'static str, policy: Policy) -> Self {
        policy.validate();
        Self { name, policy, begin: OnceLock::new() }
    }

    fn begin_sql(&self) -> &str {
        self.begin.get_or_init(|| self.policy.begin_sql())
    }
}

/// One call of a `#[transactional]` function, over all its attempts.
pub struct Run<'a> {
    source: Kind<'a>,
    site: &'static Site,
    /// The pool's session, while an attempt has it.
    session: Option<Box<dyn Session>>,
    state: State,
    attempt: u32,
    spent: Spent,
}

/// Why an attempt could not begin.
#[derive(Debug)]
pub struct Refused {
    error: Error,
    end: End,
}

impl Refused {
    fn new(error: Error, failure: Failure, policy: &Policy) -> Self {
        let cause = Cause::of(&failure, policy);
        let discard = failure.lost || cause.is_some_and(Cause::needs_another_session);
        let end = End { outcome: Some(When::RolledBack), cause, failure: Some(failure), discard };
        Self { error, end }
    }
}

impl<'a> Run<'a> {
    /// A call that has not begun.
    #[must_use]
    pub fn new(source: Source<'a>, site: &'static Site) -> Self {
        Self { source: source.0, site, session: None, state: State::default(), attempt: 0, spent: Spent::default() }
    }

    /// Begins an attempt: takes a session and sends BEGIN, or SAVEPOINT where the call is nested.
    pub async fn begin(&mut self) -> Result<Transaction<'_>, Refused> {
        if let Kind::Nested(parent) = self.source {
            return savepoint(parent, self.site).await;
        }
        self.attempt += 1;
        self.state = State::default();
        if let (Kind::Pool(pool), None) = (&self.source, &self.session) {
            match pool.get().await {
                Ok(session) => self.session = Some(session),
                Err(error) => {
                    let failure = Failure::find(&error).unwrap_or_else(Failure::fatal);
                    return Err(Refused::new(error, failure, &self.site.policy));
                }
            }
        }
        let session = self.session.as_deref();
        let client = match (&self.source, session) {
            (Kind::Client(client), _) => client,
            (_, Some(session)) => session.client(),
            (_, None) => unreachable!("a call that is not nested has a client or a session"),
        };
        let Self { site, ref state, attempt, .. } = *self;
        let tx = Transaction {
            handle: Handle { client, session, state, site, attempt, depth: 0 },
            savepoint: None,
            ended: false,
        };
        begin(tx).await
    }

    /// Decides what follows an attempt: its result, or after a sleep that holds nothing, another attempt.
    pub async fn next<T, E: From<Error>>(
        &mut self,
        attempt: Result<Ended<T, E>, Refused>,
    ) -> ControlFlow<Result<T, E>> {
        let Ended { outcome, end } = match attempt {
            Ok(ended) => ended,
            Err(Refused { error, end }) => Ended { outcome: Err(E::from(error)), end },
        };
        if self.try_again(end).await { ControlFlow::Continue(()) } else { ControlFlow::Break(outcome) }
    }

    async fn try_again(&mut self, end: End) -> bool {
        if matches!(self.source, Kind::Nested(_)) {
            return false;
        }
        let hooks = self.state.with_hooks(|hooks| hooks.take(end.outcome));
        let replan = end.cause.is_some_and(Cause::is_stale_plan);
        if let (true, Some(session)) = (replan, &self.session) {
            session.clear_statement_cache();
        }
        // A stale plan is retried at once, where its cache was cleared: other sessions have caches of their own.
        if !replan || !hooks.is_empty() || end.discard {
            self.release(&end);
        }
        for hook in hooks {
            hook.await;
        }
        let Some(cause) = end.cause else { return false };
        let stranded = end.discard && matches!(self.source, Kind::Client(_));
        let delay = if stranded { None } else { self.spent.take(cause, &self.site.policy) };
        let Some(delay) = delay else {
            events::give_up(self.site, self.attempt, cause, end.failure.as_ref());
            return false;
        };
        events::retry(self.site, self.attempt, cause, end.failure.as_ref(), delay);
        if !delay.is_zero() {
            sleep(delay).await;
        }
        true
    }

    /// Gives the session back to its pool, unless it must not be used again.
    fn release(&mut self, end: &End) {
        if let Some(session) = self.session.take() {
            if end.discard {
                events::discard(self.site, self.attempt, end.failure.as_ref());
                session.discard();
            }
        }
    }
}

impl std::fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("site", &self.site).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// Sends BEGIN. The transaction is open as far as anyone can tell from before it leaves: dropped, it is rolled back.
async fn begin(mut tx: Transaction<'_>) -> Result<Transaction<'_>, Refused> {
    let Handle { client, site, attempt, .. } = tx.handle;
    let mut answer = client.batch_execute(site.begin_sql()).await;
    if let Err(error) = &answer {
        let failure = Failure::at_begin(error);
        if failure.is_open_transaction() && tx.handle.rollback().await.is_ok() {
            events::left_open(site, attempt, &failure);
            answer = client.batch_execute(site.begin_sql()).await;
        }
    }
    let Err(error) = answer else { return Ok(tx) };
    let failure = Failure::at_begin(&error);
    let mut refused = Refused::new(Error::Postgres(error), failure, &site.policy);
    // A setting that the server refuses leaves the transaction open.
    refused.end.discard = refused.end.discard || tx.handle.rollback().await.is_err();
    tx.ended = true;
    Err(refused)
}

/// Begins a nested call: a savepoint of the transaction around it.
async fn savepoint<'a>(parent: Handle<'a>, inner: &'static Site) -> Result<Transaction<'a>, Refused> {
    let outer = parent.site;
    let promised = outer.policy.isolation.unwrap_or(Isolation::ReadCommitted);
    if inner.policy.isolation.is_some_and(|wanted| wanted > promised) {
        let error = Error::NestedIsolation { outer: outer.name, inner: inner.name };
        return Err(Refused { error, end: End::default() });
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
            Err(Refused { error: Error::Postgres(error), end: End::default() })
        }
    }
}
