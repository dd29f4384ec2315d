//! What follows an attempt: the call's result, or another attempt.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::call::Call;
use crate::call::body::FromError;
use crate::call::finish::no_reply;
use crate::call::outcome::{AttemptOutcome, Finished, SessionFate};
use crate::call::queue::QueueGuards;
use crate::call::retry::RetryCause;
use crate::call::session;
use crate::call::source::Kind;
use crate::classify::{Class, Failure};
use crate::commit::resolve;
use crate::error::{CommitOutcome, Error, Phase};
use crate::events::{CallResult, Event};
use crate::transaction::deadline::Expired;
use crate::transaction::hooks;

/// What follows an attempt.
enum Next {
    Retry,
    /// The body's result is the call's.
    Return,
    Fail(Error),
}

impl Call<'_> {
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
        let is_ok = result.as_ref().is_none_or(Result::is_ok);
        match (self.conclude(outcome, is_ok).await, result) {
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

    /// `is_ok`: the body returned `Ok`, or did not run.
    async fn conclude(&mut self, mut outcome: AttemptOutcome, is_ok: bool) -> Next {
        if matches!(self.source, Kind::Nested(_)) {
            return outcome.error.map_or(Next::Return, Next::Fail);
        }
        if outcome.is_committed() && self.function().policy.early_release && self.status.is_flush_pending() {
            // Boxed, because it is rare, and every call's future would otherwise be that much larger.
            outcome = Box::pin(self.wait_for_flush(outcome)).await;
        }
        self.tell_protection(&outcome);
        if outcome.is_committed() && self.status.with_hooks(|hooks| hooks.len() == 0) {
            // Most calls end here.
            let now = Instant::now();
            self.end_session(&outcome, false);
            self.tell_gate(&outcome);
            self.with_queues(QueueGuards::release_all);
            self.end_committed(now);
            return Next::Return;
        }
        // Boxed, because every call's future would otherwise be that much larger.
        Box::pin(self.conclude_other(outcome, is_ok)).await
    }

    /// The locks are released, so other calls go ahead. This call waits until its commit is flushed.
    async fn wait_for_flush(&mut self, mut outcome: AttemptOutcome) -> AttemptOutcome {
        self.tell_gate(&outcome);
        self.with_queues(QueueGuards::release_all);
        let identity = outcome.identity.take();
        let deadline = if identity.is_some() { self.deadline.leaving_time_for_a_lookup() } else { self.deadline };
        let error = match deadline.bound(self.status.flush()).await {
            Ok(Ok(())) => {
                self.status.set_in_transaction(false);
                return outcome;
            }
            Ok(Err(error)) => Some(error),
            Err(Expired) => None,
        };
        no_reply(self.id(), &self.function().policy, error, identity)
    }

    async fn conclude_other(&mut self, mut outcome: AttemptOutcome, is_ok: bool) -> Next {
        let now = Instant::now();
        if let (true, Some(session)) = (outcome.retry.is_some_and(RetryCause::is_stale_plan), self.session()) {
            session.clear_statement_cache();
        }
        if self.budgets.has_met_read_only() && outcome.failure.as_ref().is_some_and(Failure::is_refused_write) {
            self.give_up_writing(&mut outcome).await;
        }
        let hooks_wait = self.status.with_hooks(|hooks| hooks.len() > 0);
        self.end_session(&outcome, hooks_wait);
        self.look_up(&mut outcome).await;
        self.end_attempt(&outcome, is_ok, now);
        self.tell_gate(&outcome);
        // A hook may call this function again.
        if hooks_wait || outcome.retry.is_none() {
            self.with_queues(QueueGuards::release_all);
        }
        // This attempt is rolled back, but an earlier one may be committed: then no hook may undo anything.
        let is_known = !self.after_unknown || outcome.is_committed();
        let commit = if is_known { outcome.commit } else { CommitOutcome::Unknown };
        let hooks = self.status.with_hooks(|hooks| hooks.take(commit));
        #[cfg(feature = "testing")]
        if commit == CommitOutcome::Committed {
            self.status.with_faults(|faults| faults.hooks_run(hooks.len()));
        }
        hooks::run(hooks).await;
        self.after_unknown |= outcome.error.as_ref().is_some_and(Error::is_unknown);
        let is_committed = outcome.is_committed();
        let next = if let Some(cause) = outcome.retry {
            self.try_again(cause, outcome).await
        } else {
            if outcome.is_hidden {
                self.id().emit(Event::EarlierFailure, outcome.failure.as_ref());
            }
            self.give_up(outcome)
        };
        let result = match &next {
            Next::Retry => return next,
            Next::Return if is_ok => CallResult::Ok,
            Next::Return => CallResult::BodyError,
            Next::Fail(error) => CallResult::Error(error.kind()),
        };
        self.end(result, is_committed, Instant::now());
        next
    }

    /// The second connection is read-only too. If a setting of the session is the reason, and not the server, other
    /// connections will be read-only too: the call gives up.
    async fn give_up_writing(&mut self, outcome: &mut AttemptOutcome) {
        let (Some(session), false) = (&self.session, self.status.is_in_transaction()) else { return };
        let by_setting = session::is_read_only_by_setting(session.client());
        if let Ok(true) = self.deadline.bound(by_setting).await {
            if let Some(cause) = outcome.retry.take() {
                self.failures.add(cause.as_str());
                self.emit_giving_up(cause, None, outcome.failure.as_ref());
                outcome.session_broken = false;
            }
        }
    }

    /// Gives the session back to its pool, unless the next attempt needs it. Hooks run without a session.
    fn end_session(&mut self, outcome: &AttemptOutcome, hooks_wait: bool) {
        let fate = outcome.session(self.status.is_in_transaction());
        let reusable = !self.status.has_cancel_on_its_way();
        if fate == SessionFate::Keep && reusable && !hooks_wait {
            return;
        }
        if let Some(session) = self.session.take() {
            let commit = self.status.take_commit();
            session::end(session, fate, reusable, commit, outcome.failure.as_ref(), self.id());
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
        self.failures.add(cause.as_str());
        let failure = outcome.failure.as_ref();
        let policy = &self.own.as_deref().unwrap_or(&self.callsite.function).policy;
        let is_stranded = outcome.session_broken && matches!(self.source, Kind::Client(..));
        let delay = if is_stranded { None } else { self.budgets.spend(cause, policy) };
        // A call that runs alone need not sleep after a conflict: those that it could conflict with wait for it.
        let alone = cause.is_conflict() && self.must_run_alone();
        let delay = if alone { delay.map(|_| Duration::ZERO) } else { delay };
        let Some(delay) = delay else {
            self.emit_giving_up(cause, None, failure);
            return self.give_up(outcome);
        };
        if !self.deadline.allows(delay) {
            return self.give_up(outcome.with_error(Error::deadline(Phase::BackOff)));
        }
        if let Some(layer) = self.refuses_retry(cause, delay) {
            self.emit_giving_up(cause, Some(layer), failure);
            return self.give_up(outcome);
        }
        self.failures.set_delay(delay);
        self.id().emit(Event::Retrying { cause: cause.as_str(), delay }, failure);
        self.spans.retry(delay);
        self.last_error = match outcome.error {
            Some(error) => Some(Box::new(error)),
            None => outcome.failure.as_ref().and_then(Failure::to_source),
        };
        let since = Instant::now();
        if !delay.is_zero() {
            // Other calls that wait to run alone need not wait for the end of this sleep.
            self.with_queues(QueueGuards::release_turn);
            sleep(delay).await;
        }
        self.clock.next_attempt(since);
        Next::Retry
    }

    fn emit_giving_up(&self, cause: RetryCause, refused_by: Option<&'static str>, failure: Option<&Failure>) {
        self.id().emit(Event::GivingUp { cause: cause.as_str(), refused_by, history: &self.history() }, failure);
    }

    /// Returns the body's result, or the error that replaces it.
    fn give_up(&mut self, outcome: AttemptOutcome) -> Next {
        let is_committed = outcome.is_committed();
        let AttemptOutcome { error, failure, text, .. } = outcome;
        let error = match error {
            Some(Error::DeadlineExceeded { phase, source: None }) => {
                self.id().emit(Event::DeadlineExceeded { phase, history: &self.history() }, failure.as_ref());
                let source = failure.as_ref().and_then(Failure::to_source).or_else(|| self.last_error.take());
                Some(Error::DeadlineExceeded { phase, source: source.map(Into::into) })
            }
            Some(Error::CircuitOpen { retry_after, source: None }) => {
                self.id().emit(Event::CircuitOpen { retry_after }, None);
                let source = self.last_error.take().map(Into::into);
                Some(Error::CircuitOpen { retry_after, source })
            }
            error => error,
        };
        let fail = |error: Error| Next::Fail(if self.attempt > 1 { error.with_history(self.history()) } else { error });
        match error {
            Some(error) if error.is_unknown() => fail(error),
            // Whatever has failed since, an earlier attempt may be committed.
            error if self.after_unknown && !is_committed => {
                let source = error.map(|error| Box::new(error) as _);
                let source = source.or_else(|| failure.as_ref().and_then(Failure::to_source));
                fail(Error::commit_unknown(None, source.or_else(|| text.map(Into::into))))
            }
            Some(error) => fail(error),
            None => Next::Return,
        }
    }
}
