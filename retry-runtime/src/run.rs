//! The retry loop's three steps: begin, (settle,) next.

use std::error::Error as StdError;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::sleep;

use crate::__private::FromError;
use crate::begin;
use crate::classify::{Class, Failure};
use crate::clean_up;
use crate::damper::Lap;
use crate::deadline::{Deadline, Expired};
use crate::decide::{Cause, Spent};
use crate::error::{Error, Phase};
use crate::events;
use crate::handle::Handle;
use crate::hooks::{self, When};
use crate::place::{Place, Places};
use crate::policy::{Damping, Policy};
use crate::queue::{QueueKey, Waits};
use crate::resolve::{CommitOutcome, find_out};
use crate::scope::Outer;
use crate::settle::{End, Ended};
use crate::source::{Kind, Pool, Session, Source};
use crate::state::State;
use crate::transaction::Transaction;

/// How many pooled sessions that died unnoticed one attempt passes over: more than pools commonly hold.
const DEAD_ON_ARRIVAL: usize = 100;

/// A `#[transactional]` function: its name and what it asks for.
#[derive(Debug)]
pub struct Site {
    pub(crate) name: &'static str,
    pub(crate) policy: Policy,
    begin: OnceLock<String>,
    places: Places,
}

impl Site {
    /// Checks the policy: in a `static`, while compiling.
    #[must_use]
    pub const fn new(name: &'static str, policy: Policy) -> Self {
        policy.validate();
        Self { name, policy, begin: OnceLock::new(), places: Places::new() }
    }

    /// What the calls on this pool share.
    fn place(&self, pool: Option<usize>) -> Arc<Place> {
        self.places.of(pool, self.policy.damping == Damping::On)
    }

    pub(crate) fn begin_sql(&self) -> &str {
        self.begin.get_or_init(|| self.policy.begin_sql())
    }
}

/// One call of a `#[transactional]` function, over all its attempts.
pub struct Run<'a> {
    source: Kind<'a>,
    site: &'static Site,
    /// The pool's id, if there is one.
    pool: Option<usize>,
    /// The call inside whose body this one is made, without being nested in it.
    outer: Option<Outer>,
    deadline: Deadline,
    /// The pool's session, while an attempt has it.
    session: Option<Box<dyn Session>>,
    state: State,
    /// What it shares with other calls of the function, where it shares anything.
    place: Option<Arc<Place>>,
    /// For other calls of the function. Boxed, as most calls wait for none.
    waits: Option<Box<Waits>>,
    /// The attempt under way, for the function's damper.
    lap: Option<Lap>,
    attempt: u32,
    spent: Spent,
    /// Whether it is unknown if an earlier attempt was committed.
    after_unknown: bool,
    /// Why the last attempt failed.
    last: Option<Box<dyn StdError + Send + Sync>>,
}

/// Why an attempt could not begin.
#[derive(Debug)]
pub struct Refused(End);

impl Refused {
    pub(crate) fn new(error: Error, failure: Option<Failure>, cause: Option<Cause>) -> Self {
        let lost = failure.as_ref().is_some_and(|failure| failure.lost);
        let discard = lost || cause.is_some_and(Cause::needs_another_session);
        Self(End { outcome: Some(When::RolledBack), cause, failure, discard, error: Some(error), ..End::default() })
    }

    /// The session must not be used again.
    pub(crate) fn discard(mut self) -> Self {
        self.0.discard = true;
        self
    }
}

impl From<Refused> for End {
    fn from(Refused(end): Refused) -> Self {
        end
    }
}

/// What follows an attempt.
enum Next {
    Again,
    /// The body's outcome is the call's.
    Return,
    Fail(Error),
}

impl<'a> Run<'a> {
    /// A call that has not begun. Its deadline counts from here.
    #[must_use]
    pub fn new(Source(source): Source<'a>, site: &'static Site) -> Self {
        let (pool, outer, damped) = match source {
            Kind::Pool(pool) => (Some(pool.id()), Outer::innermost(), site.policy.damping == Damping::On),
            Kind::Client(..) => (None, Outer::innermost(), false),
            Kind::Nested(_) => (None, None, false),
        };
        let is_nested = matches!(source, Kind::Nested(_));
        // Inside another call's body, waiting for others could mean waiting for that call.
        let shares = !is_nested && outer.is_none() && (damped || site.policy.escalate_after.is_some());
        Self {
            place: shares.then(|| site.place(pool)),
            source,
            site,
            pool,
            outer,
            deadline: Deadline::after(site.policy.deadline),
            session: None,
            state: State::default(),
            waits: None,
            lap: None,
            attempt: 0,
            spent: Spent::default(),
            after_unknown: false,
            last: None,
        }
    }

    /// Has the call wait for those with equal keys. A call inside another call's body waits for no other.
    #[must_use]
    pub fn queue_by<const N: usize>(mut self, keys: [QueueKey; N]) -> Self {
        if !matches!(self.source, Kind::Nested(_)) && self.outer.is_none() {
            self.place.get_or_insert_with(|| self.site.place(self.pool));
            self.waits = Some(Box::new(Waits::new(keys.into())));
        }
        self
    }

    /// Begins an attempt: takes a session and sends BEGIN, or SAVEPOINT where the call is nested.
    pub async fn begin(&mut self) -> Result<Transaction<'_>, Refused> {
        if let Kind::Nested(parent) = self.source {
            return begin::savepoint(*parent, self.site).await;
        }
        if let (Some(outer), 0) = (self.outer, self.attempt) {
            self.check_not_nested(outer)?;
        }
        self.attempt += 1;
        self.state = State::default();
        if self.runs_alone() || self.waits.is_some() {
            // Boxed, as it is rare, and every call's future would have room for it.
            Box::pin(self.wait_for_others()).await?;
        }
        if let (Kind::Pool(pool), None) = (&self.source, &self.session) {
            self.session = Some(self.take_session(*pool).await?);
        }
        let alone = self.waits.as_ref().is_some_and(|waits| waits.is_alone());
        let damper = self.place.as_ref().and_then(|place| place.damper.as_ref());
        self.lap = damper.map(|damper| damper.begin(alone));
        let session = self.session();
        let client = match (&self.source, session) {
            (Kind::Client(client, _), _) => client,
            (_, Some(session)) => session.client(),
            (_, None) => unreachable!("a call that is not nested has a client or a session"),
        };
        let Self { site, pool, ref state, attempt, after_unknown, deadline, .. } = *self;
        let (pooled, function) = (self.session.is_some(), site.name);
        let handle =
            Handle { client, session, pooled, state, site, function, pool, deadline, attempt, after_unknown, depth: 0 };
        begin::transaction(handle).await
    }

    /// Refuses a call that should have been nested, and tells of every call beside the transaction around it.
    fn check_not_nested(&self, outer: Outer) -> Result<(), Refused> {
        let (inner, policy) = (self.site.name, &self.site.policy);
        events::not_nested(outer.function, inner, policy.independent);
        if self.pool.is_none() || self.pool != outer.pool || policy.independent {
            return Ok(());
        }
        Err(Refused::new(Error::NotNested { outer: outer.function, inner }, None, None))
    }

    /// The pool's session, or the caller's own.
    fn session(&self) -> Option<&dyn Session> {
        match self.source {
            Kind::Client(_, session) => session,
            _ => self.session.as_deref(),
        }
    }

    /// Whether it takes turns with others: it has escalated, or all calls do.
    fn runs_alone(&self) -> bool {
        self.has_escalated() || self.place.as_ref().is_some_and(|place| place.shut_for().is_some())
    }

    fn has_escalated(&self) -> bool {
        self.place.is_some()
            && self.site.policy.escalate_after.is_some_and(|conflicts| self.spent.conflicts() >= conflicts)
    }

    /// Waits for its turn among the calls with equal keys, and then, where it has escalated or while calls go one at a
    /// time, for its turn to run alone: always in this order, so that no two calls wait for each other.
    async fn wait_for_others(&mut self) -> Result<(), Refused> {
        let escalated = self.has_escalated();
        let Self { deadline, place: Some(place), waits, .. } = self else { return Ok(()) };
        let waits = waits.get_or_insert_default();
        let all = async {
            waits.wait_in_line(&place.queues).await;
            let mut alone = pin!(waits.wait_to_be_alone(&place.queues));
            if escalated {
                return alone.await;
            }
            // No longer than that, as whoever has the turn may itself be waiting for this call.
            while let Some(limit) = place.shut_for() {
                if Deadline::after(Some(limit)).bound(alone.as_mut()).await.is_ok() {
                    return;
                }
            }
        };
        deadline.bound(all).await.map_err(|Expired| Refused::new(Error::deadline(Phase::Queue), None, None))
    }

    /// Takes a session out of the pool. One that is dead already costs no retry.
    async fn take_session(&self, pool: &dyn Pool) -> Result<Box<dyn Session>, Refused> {
        let mut passed_over = 0;
        loop {
            let session = match self.deadline.bound(pool.get()).await {
                Ok(Ok(session)) => session,
                Ok(Err(error)) => {
                    let failure = Failure::find(&error);
                    let cause = failure.as_ref().and_then(|failure| Cause::of(failure, &self.site.policy));
                    return Err(Refused::new(error, failure, cause));
                }
                Err(Expired) => return Err(Refused::new(Error::deadline(Phase::Pool), None, None)),
            };
            if !session.client().is_closed() || passed_over == DEAD_ON_ARRIVAL {
                return Ok(session);
            }
            passed_over += 1;
            events::discard(self.site, self.attempt, None);
            session.discard();
        }
    }

    /// Decides what follows an attempt: its result, or after a sleep that holds nothing, another attempt.
    pub async fn next<T, E: FromError>(&mut self, attempt: Result<Ended<T, E>, Refused>) -> ControlFlow<Result<T, E>> {
        let (outcome, end) = match attempt {
            Ok(Ended { outcome, end }) => (Some(outcome), end),
            Err(Refused(end)) => (None, end),
        };
        match (self.conclude(end).await, outcome) {
            (Next::Again, _) => ControlFlow::Continue(()),
            (Next::Fail(error), _) => ControlFlow::Break(Err(E::from_error(error))),
            (Next::Return, Some(outcome)) => ControlFlow::Break(outcome),
            (Next::Return, None) => unreachable!("an attempt that did not begin has an error"),
        }
    }

    async fn conclude(&mut self, mut end: End) -> Next {
        if matches!(self.source, Kind::Nested(_)) {
            return end.error.map_or(Next::Return, Next::Fail);
        }
        if let (true, Some(session)) = (end.cause.is_some_and(Cause::is_stale_plan), self.session()) {
            session.clear_statement_cache();
        }
        if self.spent.has_met_read_only() && end.failure.as_ref().is_some_and(Failure::is_refused_write) {
            Box::pin(self.give_up_writing(&mut end)).await;
        }
        let keep = end.cause.is_some_and(Cause::keeps_session);
        let hooks_wait = self.state.with_hooks(|hooks| hooks.len() > 0);
        if !keep || hooks_wait || end.discard || self.state.is_dirty() {
            self.release(&end);
        }
        self.find_out(&mut end).await;
        self.tell_damper(&end);
        // A hook may call this function again.
        if hooks_wait || end.cause.is_none() {
            self.with_waits(Waits::leave);
        }
        // What was undone in this attempt may stand in an earlier one.
        let outcome = end.outcome.filter(|outcome| !self.after_unknown || *outcome == When::Committed);
        hooks::run(self.state.with_hooks(|hooks| hooks.take(outcome))).await;
        self.after_unknown |= matches!(end.error, Some(Error::CommitUnknown { .. }));
        if let Some(cause) = end.cause {
            return self.try_again(cause, end).await;
        }
        if end.is_hidden {
            events::hidden(self.site, self.attempt, end.failure.as_ref());
        }
        self.give_up(end)
    }

    /// Another connection only reads as well. If its settings say so, and not the server, all others will.
    async fn give_up_writing(&self, end: &mut End) {
        let (Some(session), false) = (&self.session, self.state.is_dirty()) else { return };
        if let Ok(true) = self.deadline.bound(clean_up::is_set_to_read(session.client())).await {
            if let Some(cause) = end.cause.take() {
                events::give_up(self.site, self.attempt, cause, end.failure.as_ref());
                end.discard = false;
            }
        }
    }

    /// Gives the session back to its pool, unless it must not be used again, or not yet.
    fn release(&mut self, end: &End) {
        let Some(session) = self.session.take() else { return };
        if end.discard {
            events::discard(self.site, self.attempt, end.failure.as_ref());
            session.discard();
        } else if self.state.is_dirty() {
            clean_up::hand_over(session, self.state.take_commit(), self.site, self.attempt);
        }
    }

    fn tell_damper(&mut self, end: &End) {
        let damper = self.place.as_ref().and_then(|place| place.damper.as_ref());
        let (Some(lap), Some(damper)) = (self.lap.take(), damper) else { return };
        if end.outcome == Some(When::Committed) {
            damper.committed(lap);
        } else if end.cause == Some(Cause::Class(Class::Deadlock)) {
            if let Some(time) = damper.deadlocked(lap) {
                events::one_at_a_time(self.site, self.attempt, end.failure.as_ref(), time);
            }
        }
    }

    fn with_waits(&mut self, change: impl FnOnce(&mut Waits)) {
        if let Some(waits) = &mut self.waits {
            change(waits);
        }
    }

    /// Looks up the outcome of a commit whose answer was lost, where the function wants that and there is a pool.
    async fn find_out(&mut self, end: &mut End) {
        let (Some(Error::CommitUnknown { identity: Some(identity), .. }), Kind::Pool(pool)) =
            (&end.error, &self.source)
        else {
            return;
        };
        // Boxed, as it is rare, and every call's future would have room for it.
        let outcome = Box::pin(find_out(*pool, identity, self.deadline)).await;
        events::commit_resolved(self.site, self.attempt, outcome);
        match outcome {
            CommitOutcome::Committed => {
                end.outcome = Some(When::Committed);
                end.error = None;
            }
            CommitOutcome::RolledBack => {
                end.outcome = Some(When::RolledBack);
                end.cause = Some(Cause::Class(Class::Connection));
                end.error = Some(match end.error.take() {
                    Some(Error::CommitUnknown { source: Some(source), .. }) => match source.downcast() {
                        Ok(source) => Error::Postgres(*source),
                        Err(source) => Error::Pool(source),
                    },
                    _ => Error::deadline(Phase::Commit),
                });
            }
            CommitOutcome::Unknown => {}
        }
    }

    async fn try_again(&mut self, cause: Cause, end: End) -> Next {
        let failure = end.failure.as_ref();
        let stranded = end.discard && matches!(self.source, Kind::Client(..));
        let delay = if stranded { None } else { self.spent.take(cause, &self.site.policy) };
        // Waiting for its turn to run alone, and running alone, is all the delay that a lost conflict needs.
        let alone = cause.is_conflict() && self.runs_alone();
        let delay = if alone { delay.and(Some(Duration::ZERO)) } else { delay };
        let Some(delay) = delay else {
            events::give_up(self.site, self.attempt, cause, failure);
            return self.give_up(end);
        };
        if !self.deadline.allows(delay) {
            return self.give_up(End { error: Some(Error::deadline(Phase::BackOff)), ..end });
        }
        events::retry(self.site, self.attempt, cause, failure, delay);
        self.last = match end.error {
            Some(error) => Some(Box::new(error)),
            None => end.failure.as_ref().and_then(Failure::to_source),
        };
        if !delay.is_zero() {
            // Those that escalated as well need not wait for the end of a sleep.
            self.with_waits(Waits::leave_alone);
            sleep(delay).await;
        }
        Next::Again
    }

    /// Returns the body's outcome, or the error that replaces it.
    fn give_up(&mut self, end: End) -> Next {
        let End { outcome, error, failure, text, .. } = end;
        let error = match error {
            Some(Error::DeadlineExceeded { phase, source: None }) => {
                events::deadline_exceeded(self.site, self.attempt, phase, failure.as_ref());
                let source = failure.as_ref().and_then(Failure::to_source).or_else(|| self.last.take());
                Some(Error::DeadlineExceeded { phase, source })
            }
            error => error,
        };
        match error {
            Some(error @ Error::CommitUnknown { .. }) => Next::Fail(error),
            // Whatever has failed since, an earlier attempt may be committed.
            error if self.after_unknown && outcome != Some(When::Committed) => {
                let source = error.map(|error| Box::new(error) as _);
                let source = source.or_else(|| failure.as_ref().and_then(Failure::to_source));
                Next::Fail(Error::CommitUnknown { identity: None, source: source.or_else(|| text.map(Into::into)) })
            }
            Some(error) => Next::Fail(error),
            None => Next::Return,
        }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let commit = self.state.take_commit();
        match self.session.take() {
            Some(session) if self.state.is_dirty() => clean_up::hand_over(session, commit, self.site, self.attempt),
            Some(_) => {}
            None => {
                if let Some(commit) = commit {
                    clean_up::wait_for_commit(commit, self.site, self.attempt);
                }
            }
        }
    }
}

impl std::fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("site", &self.site).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
