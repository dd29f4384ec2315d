//! One call over its attempts: begin, run the body, finish, and then return or retry.
//!
//! The expansion of `#[transactional]` drives it: [`Call::begin`] gives the body its transaction,
//! `Transaction::finish` (in `finish`) commits or rolls back, and [`Call::next`] decides what follows.

mod begin;
mod begin_sql;
pub(crate) mod body;
pub(crate) mod callsite;
mod deadlock_gate;
pub(crate) mod finish;
pub(crate) mod outcome;
pub(crate) mod queue;
mod retry;
mod session;
pub(crate) mod source;

use std::error::Error as StdError;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::call::body::{FromError, RunningCall};
use crate::call::callsite::{Callsite, Shared};
use crate::call::deadlock_gate::AttemptTimer;
use crate::call::outcome::{AttemptOutcome, Finished, SessionFate};
use crate::call::queue::{QueueGuards, QueueKey};
use crate::call::retry::{Budgets, RetryCause};
use crate::call::source::{Kind, Source};
use crate::classify::{Class, Failure};
use crate::commit::resolve;
use crate::error::{CommitOutcome, Error, Phase};
use crate::events::{AttemptId, Event};
use crate::policy::Damping;
use crate::pool::{Session, clean_up};
use crate::transaction::Transaction;
use crate::transaction::context::TxContext;
use crate::transaction::deadline::{Deadline, Expired};
use crate::transaction::hooks;
use crate::transaction::status::AttemptStatus;

/// One call of a `#[transactional]` function, over all its attempts.
pub struct Call<'a> {
    source: Kind<'a>,
    callsite: &'static Callsite,
    /// The pool's id, if there is a pool.
    pool: Option<usize>,
    /// The call whose body makes this one without passing its transaction.
    outer: Option<RunningCall>,
    deadline: Deadline,
    /// The pool's session, while this call holds it.
    session: Option<Box<dyn Session>>,
    status: AttemptStatus,
    /// What it shares with other calls of the function, if it shares anything.
    shared: Option<Arc<Shared>>,
    /// Its places in queues. Boxed, because most calls are in none.
    queue_guards: Option<Box<QueueGuards>>,
    /// The attempt under way, for the function's gate.
    timer: Option<AttemptTimer>,
    attempt: u32,
    budgets: Budgets,
    /// Whether an earlier attempt may be committed.
    after_unknown: bool,
    /// Why the last attempt failed.
    last_error: Option<Box<dyn StdError + Send + Sync>>,
}

/// What follows an attempt.
enum Next {
    Retry,
    /// The body's result is the call's.
    Return,
    Fail(Error),
}

impl<'a> Call<'a> {
    /// A call that has not begun. Its deadline counts from here.
    #[must_use]
    pub fn new(Source(source): Source<'a>, callsite: &'static Callsite) -> Self {
        let policy = &callsite.policy;
        let (pool, outer, has_gate) = match source {
            Kind::Pool(pool) => (Some(pool.id()), RunningCall::innermost(), policy.damping == Damping::On),
            Kind::Client(..) => (None, RunningCall::innermost(), false),
            Kind::Nested(_) => (None, None, false),
        };
        let is_nested = matches!(source, Kind::Nested(_));
        // A call inside another call's body must not wait for other calls: it could wait for the outer one, forever.
        let shares = !is_nested && outer.is_none() && (has_gate || policy.escalate_after.is_some());
        Self {
            shared: shares.then(|| callsite.shared(pool)),
            source,
            callsite,
            pool,
            outer,
            deadline: Deadline::of_call(policy.deadline),
            session: None,
            status: AttemptStatus::default(),
            queue_guards: None,
            timer: None,
            attempt: 0,
            budgets: Budgets::default(),
            after_unknown: false,
            last_error: None,
        }
    }

    /// Makes the call wait for those with equal keys. A call inside another call's body does not wait.
    #[must_use]
    pub fn queue_by<const N: usize>(mut self, keys: [QueueKey; N]) -> Self {
        if !matches!(self.source, Kind::Nested(_)) && self.outer.is_none() {
            self.shared.get_or_insert_with(|| self.callsite.shared(self.pool));
            self.queue_guards = Some(Box::new(QueueGuards::new(keys.into())));
        }
        self
    }

    /// Begins an attempt: takes a session and sends BEGIN, or SAVEPOINT if the call is nested.
    pub async fn begin(&mut self) -> Result<Transaction<'_>, AttemptOutcome> {
        let (client, session) = match self.source {
            Kind::Nested(parent) => return begin::nested(*parent, self.callsite).await,
            Kind::Client(client, session) => {
                self.prepare().await?;
                (client, session)
            }
            Kind::Pool(pool) => {
                self.prepare().await?;
                let session = match self.session.take() {
                    Some(kept) => kept,
                    None => session::take(pool, self.deadline, &self.callsite.policy, self.id()).await?,
                };
                let session = &**self.session.insert(session);
                (session.client(), Some(session))
            }
        };
        let alone = self.queue_guards.as_ref().is_some_and(|guards| guards.has_turn());
        let gate = self.shared.as_ref().and_then(|shared| shared.gate.as_ref());
        self.timer = gate.map(|gate| gate.begin(alone));
        let context = TxContext {
            client,
            session,
            pooled: matches!(self.source, Kind::Pool(_)),
            status: &self.status,
            policy: &self.callsite.policy,
            id: AttemptId { function: self.callsite.name, attempt: self.attempt },
            function: self.callsite.name,
            pool: self.pool,
            deadline: self.deadline,
            after_unknown: self.after_unknown,
            depth: 0,
        };
        begin::transaction(context, self.callsite.begin_sql()).await
    }

    /// What comes before an attempt has a connection: checks, a fresh status, and the wait for other calls.
    async fn prepare(&mut self) -> Result<(), AttemptOutcome> {
        if let (Some(outer), 0) = (self.outer, self.attempt) {
            self.check_not_nested(outer)?;
        }
        if self.attempt > 0 {
            self.status = AttemptStatus::default();
        }
        self.attempt += 1;
        if self.must_run_alone() || self.queue_guards.is_some() {
            // Boxed, because it is rare, and every call's future would otherwise be that much larger.
            Box::pin(self.wait_for_others()).await?;
        }
        Ok(())
    }

    /// Emits an event if the call should have been nested, and refuses it on the pool of the outer call.
    fn check_not_nested(&self, outer: RunningCall) -> Result<(), AttemptOutcome> {
        let independent = self.callsite.policy.independent;
        self.id().emit(Event::NotNested { outer: outer.function, independent }, None);
        if self.pool.is_none() || self.pool != outer.pool || independent {
            return Ok(());
        }
        let error = Error::NotNested { outer: outer.function, inner: self.callsite.name };
        Err(AttemptOutcome::not_begun(error, None, None))
    }

    fn id(&self) -> AttemptId {
        AttemptId { function: self.callsite.name, attempt: self.attempt }
    }

    /// The pool's session, or the caller's own.
    fn session(&self) -> Option<&dyn Session> {
        match self.source {
            Kind::Client(_, session) => session,
            _ => self.session.as_deref(),
        }
    }

    /// Whether it must run alone: it has escalated, or the gate is closed.
    fn must_run_alone(&self) -> bool {
        self.has_escalated() || self.shared.as_ref().is_some_and(|shared| shared.closed_for().is_some())
    }

    fn has_escalated(&self) -> bool {
        let escalate_after = self.callsite.policy.escalate_after;
        self.shared.is_some() && escalate_after.is_some_and(|conflicts| self.budgets.conflicts() >= conflicts)
    }

    /// Waits for other calls of the function.
    async fn wait_for_others(&mut self) -> Result<(), AttemptOutcome> {
        let escalated = self.has_escalated();
        let Some(shared) = &self.shared else { return Ok(()) };
        let wait = shared.wait(self.queue_guards.get_or_insert_default(), escalated);
        let wait = self.deadline.bound(wait).await;
        wait.map_err(|Expired| AttemptOutcome::not_begun(Error::deadline(Phase::Queue), None, None))
    }

    /// Decides what follows an attempt: the call's result, or another attempt after a sleep. During the sleep the call holds
    /// no connection, and keeps only its places in the queues of its keys.
    pub async fn next<T, E: FromError>(
        &mut self,
        attempt: Result<Finished<T, E>, AttemptOutcome>,
    ) -> ControlFlow<Result<T, E>> {
        let (result, outcome) = match attempt {
            Ok(Finished { result, outcome }) => (Some(result), outcome),
            Err(outcome) => (None, outcome),
        };
        match (self.conclude(outcome).await, result) {
            (Next::Retry, _) => ControlFlow::Continue(()),
            (Next::Fail(error), _) => ControlFlow::Break(Err(E::from_error(error))),
            (Next::Return, Some(result)) => ControlFlow::Break(result),
            (Next::Return, None) => unreachable!("an attempt that did not begin has an error"),
        }
    }

    /// [`Call::next`] for an error that is a type parameter: rustc then suggests the bound to write, `From<Error>`.
    pub fn next_from<T, E: From<Error>>(
        &mut self,
        attempt: Result<Finished<T, E>, AttemptOutcome>,
    ) -> impl Future<Output = ControlFlow<Result<T, E>>> {
        self.next(attempt)
    }

    async fn conclude(&mut self, outcome: AttemptOutcome) -> Next {
        if matches!(self.source, Kind::Nested(_)) {
            return outcome.error.map_or(Next::Return, Next::Fail);
        }
        if outcome.is_committed() && self.status.with_hooks(|hooks| hooks.len() == 0) {
            // Most calls end here.
            self.end_session(&outcome, false);
            self.tell_gate(&outcome);
            self.with_queues(QueueGuards::release_all);
            return Next::Return;
        }
        // Boxed, because every call's future would otherwise be that much larger.
        Box::pin(self.conclude_other(outcome)).await
    }

    async fn conclude_other(&mut self, mut outcome: AttemptOutcome) -> Next {
        if let (true, Some(session)) = (outcome.retry.is_some_and(RetryCause::is_stale_plan), self.session()) {
            session.clear_statement_cache();
        }
        if self.budgets.has_met_read_only() && outcome.failure.as_ref().is_some_and(Failure::is_refused_write) {
            self.give_up_writing(&mut outcome).await;
        }
        let hooks_wait = self.status.with_hooks(|hooks| hooks.len() > 0);
        self.end_session(&outcome, hooks_wait);
        self.look_up(&mut outcome).await;
        self.tell_gate(&outcome);
        // A hook may call this function again.
        if hooks_wait || outcome.retry.is_none() {
            self.with_queues(QueueGuards::release_all);
        }
        // This attempt is rolled back, but an earlier one may be committed: then no hook may undo anything.
        let is_known = !self.after_unknown || outcome.is_committed();
        let commit = if is_known { outcome.commit } else { CommitOutcome::Unknown };
        hooks::run(self.status.with_hooks(|hooks| hooks.take(commit))).await;
        self.after_unknown |= outcome.error.as_ref().is_some_and(Error::is_unknown);
        if let Some(cause) = outcome.retry {
            return self.try_again(cause, outcome).await;
        }
        if outcome.is_hidden {
            self.id().emit(Event::EarlierFailure, outcome.failure.as_ref());
        }
        self.give_up(outcome)
    }

    /// The second connection is read-only too. If a setting of the session is the reason, and not the server, other
    /// connections will be read-only too: the call gives up.
    async fn give_up_writing(&self, outcome: &mut AttemptOutcome) {
        let (Some(session), false) = (&self.session, self.status.is_in_transaction()) else { return };
        let by_setting = session::is_read_only_by_setting(session.client());
        if let Ok(true) = self.deadline.bound(by_setting).await {
            if let Some(cause) = outcome.retry.take() {
                self.id().emit(Event::GivingUp { cause: cause.as_str() }, outcome.failure.as_ref());
                outcome.session_broken = false;
            }
        }
    }

    /// Gives the session back to its pool, unless the next attempt needs it. Hooks run without a session.
    fn end_session(&mut self, outcome: &AttemptOutcome, hooks_wait: bool) {
        let fate = outcome.session(self.status.is_in_transaction());
        if fate == SessionFate::Keep && !hooks_wait {
            return;
        }
        if let Some(session) = self.session.take() {
            let commit = self.status.take_commit();
            session::end(session, fate, commit, outcome.failure.as_ref(), self.id());
        }
    }

    fn tell_gate(&mut self, outcome: &AttemptOutcome) {
        let gate = self.shared.as_ref().and_then(|shared| shared.gate.as_ref());
        let (Some(timer), Some(gate)) = (self.timer.take(), gate) else { return };
        if outcome.is_committed() {
            gate.committed(timer);
        } else if outcome.retry == Some(RetryCause::Class(Class::Deadlock)) {
            if let Some(time) = gate.deadlocked(timer) {
                self.id().emit(Event::OneAtATime { time }, outcome.failure.as_ref());
            }
        }
    }

    fn with_queues(&mut self, change: impl FnOnce(&mut QueueGuards)) {
        if let Some(guards) = &mut self.queue_guards {
            change(guards);
        }
    }

    /// Looks up the outcome of a commit without a reply, if the function asks for that and there is a pool.
    async fn look_up(&mut self, attempt: &mut AttemptOutcome) {
        let (Some(Error::CommitUnknown { identity: Some(identity), .. }), Kind::Pool(pool)) =
            (&attempt.error, &self.source)
        else {
            return;
        };
        let outcome = resolve::look_up(*pool, identity, self.deadline).await;
        self.id().emit(Event::CommitResolved { outcome }, None);
        attempt.resolved(outcome);
    }

    async fn try_again(&mut self, cause: RetryCause, outcome: AttemptOutcome) -> Next {
        let failure = outcome.failure.as_ref();
        let is_stranded = outcome.session_broken && matches!(self.source, Kind::Client(..));
        let delay = if is_stranded { None } else { self.budgets.spend(cause, &self.callsite.policy) };
        // A call that runs alone need not sleep after a conflict: those that it could conflict with wait for it.
        let alone = cause.is_conflict() && self.must_run_alone();
        let delay = if alone { delay.map(|_| Duration::ZERO) } else { delay };
        let Some(delay) = delay else {
            self.id().emit(Event::GivingUp { cause: cause.as_str() }, failure);
            return self.give_up(outcome);
        };
        if !self.deadline.allows(delay) {
            return self.give_up(outcome.with_error(Error::deadline(Phase::BackOff)));
        }
        self.id().emit(Event::Retrying { cause: cause.as_str(), delay }, failure);
        self.last_error = match outcome.error {
            Some(error) => Some(Box::new(error)),
            None => outcome.failure.as_ref().and_then(Failure::to_source),
        };
        if !delay.is_zero() {
            // Other calls that wait to run alone need not wait for the end of this sleep.
            self.with_queues(QueueGuards::release_turn);
            sleep(delay).await;
        }
        Next::Retry
    }

    /// Returns the body's result, or the error that replaces it.
    fn give_up(&mut self, outcome: AttemptOutcome) -> Next {
        let is_committed = outcome.is_committed();
        let AttemptOutcome { error, failure, text, .. } = outcome;
        let error = match error {
            Some(Error::DeadlineExceeded { phase, source: None }) => {
                self.id().emit(Event::DeadlineExceeded { phase }, failure.as_ref());
                let source = failure.as_ref().and_then(Failure::to_source).or_else(|| self.last_error.take());
                Some(Error::DeadlineExceeded { phase, source: source.map(Into::into) })
            }
            error => error,
        };
        match error {
            Some(error) if error.is_unknown() => Next::Fail(error),
            // Whatever has failed since, an earlier attempt may be committed.
            error if self.after_unknown && !is_committed => {
                let source = error.map(|error| Box::new(error) as _);
                let source = source.or_else(|| failure.as_ref().and_then(Failure::to_source));
                Next::Fail(Error::commit_unknown(None, source.or_else(|| text.map(Into::into))))
            }
            Some(error) => Next::Fail(error),
            None => Next::Return,
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let commit = self.status.take_commit();
        match self.session.take() {
            Some(session) if self.status.is_in_transaction() => clean_up::hand_over(session, commit, self.id()),
            Some(_) => {}
            None => {
                if let Some(commit) = commit {
                    clean_up::wait_for_commit(commit, self.id());
                }
            }
        }
    }
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("function", &self.callsite.name)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
