//! One call over its attempts: begin, run the body, finish, and then return or retry.
//!
//! The expansion of `#[transactional]` drives it: [`Call::begin`] gives the body its transaction,
//! `Transaction::finish` (in `finish`) commits or rolls back, and [`Call::next`] decides what follows.

mod begin;
mod begin_sql;
pub(crate) mod body;
pub(crate) mod callsite;
mod clock;
mod deadlock_gate;
#[cfg(feature = "testing")]
mod fault;
pub(crate) mod finish;
mod interrupt;
mod next;
pub(crate) mod options;
pub(crate) mod outcome;
mod protect;
pub(crate) mod queue;
mod retry;
pub(crate) mod server_timeout;
mod session;
mod signals;
pub(crate) mod source;

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Instant;

use crate::call::body::RunningCall;
use crate::call::callsite::{Callsite, Function, Shared};
use crate::call::clock::Clock;
use crate::call::deadlock_gate::AttemptTimer;
use crate::call::outcome::AttemptOutcome;
use crate::call::queue::{QueueGuards, QueueKey};
use crate::call::retry::Budgets;
use crate::call::source::{Kind, Source};
use crate::error::{Error, Failures, History, Phase};
use crate::events::spans::Spans;
use crate::events::{AttemptId, CallResult, Event};
use crate::policy::{Damping, Queue};
use crate::pool::protection::{Admission, Protection};
use crate::pool::{Session, clean_up};
use crate::transaction::Transaction;
use crate::transaction::context::TxContext;
use crate::transaction::deadline::{Deadline, Expired};
use crate::transaction::status::AttemptStatus;

/// One call of a `#[transactional]` function, over all its attempts.
pub struct Call<'a> {
    source: Kind<'a>,
    callsite: &'static Callsite,
    /// Name and options, if the call sets its own. Boxed, because most calls set none.
    own: Option<Box<Function>>,
    /// The pool's id, if there is a pool.
    pool: Option<usize>,
    /// The pool's breaker and budget, if it has them.
    protection: Protection<'a>,
    /// The attempt under way, for the pool's breaker.
    admission: Option<Admission<'a>>,
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
    clock: Clock,
    spans: Spans,
    /// Whether its end was emitted.
    is_over: bool,
    /// Why attempts have failed.
    failures: Failures,
    budgets: Budgets,
    /// Whether an earlier attempt may be committed.
    after_unknown: bool,
    /// Why the last attempt failed.
    last_error: Option<Box<dyn StdError + Send + Sync>>,
}

impl<'a> Call<'a> {
    /// A call that has not begun. Its deadline counts from here.
    #[must_use]
    pub fn new(Source { kind: source, options }: Source<'a>, callsite: &'static Callsite) -> Self {
        let own = options.map(|options| Box::new(options.of(&callsite.function)));
        let policy = own.as_deref().unwrap_or(&callsite.function).policy;
        let (pool, outer, has_gate) = match source {
            Kind::Pool(pool) => (Some(pool.id()), RunningCall::innermost(), policy.damping == Damping::On),
            Kind::Client(..) | Kind::Driver(_) => (None, RunningCall::innermost(), false),
            Kind::Nested(_) => (None, None, false),
        };
        // A call inside another transaction must not wait for other calls: they could wait for that transaction, forever.
        let shares = !source.is_savepoint() && outer.is_none() && (has_gate || policy.escalate_after.is_some());
        let name = own.as_deref().unwrap_or(&callsite.function).name;
        Self {
            spans: if matches!(source, Kind::Nested(_)) { Spans::default() } else { Spans::of_call(name) },
            shared: shares.then(|| callsite.shared(pool)),
            source,
            callsite,
            own,
            pool,
            protection: match source {
                Kind::Pool(pool) => pool.protection(),
                _ => Protection::default(),
            },
            admission: None,
            outer,
            deadline: Deadline::of_call(policy.deadline),
            session: None,
            status: AttemptStatus::default(),
            queue_guards: None,
            timer: None,
            attempt: 0,
            clock: Clock::start(),
            is_over: false,
            failures: Failures::default(),
            budgets: Budgets::default(),
            after_unknown: false,
            last_error: None,
        }
    }

    /// Makes the call wait for those with equal keys. A call inside another transaction does not wait.
    #[must_use]
    pub fn queue_by<const N: usize>(mut self, keys: [QueueKey; N]) -> Self {
        if !self.source.is_savepoint() && self.outer.is_none() {
            self.shared.get_or_insert_with(|| self.callsite.shared(self.pool));
            let mut guards = QueueGuards::new(keys.into());
            if self.function().policy.queue == Queue::Server {
                // Its own name and not the call's: calls that name themselves queue with the others.
                guards.lock_in_server(self.callsite.function.name);
            }
            self.queue_guards = Some(Box::new(guards));
        }
        self
    }

    /// Begins an attempt: takes a session and sends BEGIN, or SAVEPOINT if the call is nested.
    pub async fn begin(&mut self) -> Result<Transaction<'_>, AttemptOutcome> {
        let (client, session) = match self.source {
            Kind::Nested(parent) => return begin::nested(parent, self.function()).await,
            Kind::Client(client, session) => {
                self.prepare().await?;
                (client, session)
            }
            Kind::Driver(client) => {
                self.prepare().await?;
                (client, None)
            }
            Kind::Pool(pool) => {
                self.prepare().await?;
                self.admit()?;
                let session = if let Some(kept) = self.session.take() {
                    kept
                } else {
                    #[cfg(feature = "testing")]
                    self.fault_of_pool()?;
                    let (deadline, id) = (self.deadline, self.id());
                    let policy = &self.own.as_deref().unwrap_or(&self.callsite.function).policy;
                    self.clock.wait(session::take(pool, deadline, policy, id)).await?
                };
                let session = &**self.session.insert(session);
                (session.client(), Some(session))
            }
        };
        let alone = self.queue_guards.as_ref().is_some_and(|guards| guards.has_turn());
        let gate = self.shared.as_ref().and_then(|shared| shared.gate.as_ref());
        self.timer = gate.map(|gate| gate.begin(alone));
        let function = self.own.as_deref().unwrap_or(&self.callsite.function);
        let in_driver_transaction = matches!(self.source, Kind::Driver(_));
        let context = TxContext {
            client,
            session,
            pooled: matches!(self.source, Kind::Pool(_)),
            status: &self.status,
            in_driver_transaction,
            policy: &function.policy,
            id: AttemptId {
                function: function.name,
                attempt: self.attempt,
                counters: &self.callsite.counters,
                span: self.spans.id(),
            },
            span: self.spans.attempt(),
            function: function.name,
            pool: self.pool,
            deadline: self.deadline,
            closing: gate.filter(|_| !alone).map(|gate| &gate.closing),
            queued: self.queue_guards.is_some(),
            after_unknown: self.after_unknown,
            depth: 0,
        };
        if in_driver_transaction {
            // Boxed, because it is rare, and every call's future would otherwise be that much larger.
            return Box::pin(begin::in_driver_transaction(context)).await;
        }
        // What is known of the pool's sessions is kept with what the function's calls share.
        let asks = self.deadline.left().is_some() || function.policy.early_release;
        let shared = (self.pool.is_some() && asks)
            .then(|| self.shared.clone().unwrap_or_else(|| self.callsite.shared(self.pool)));
        let locks = self.queue_guards.as_ref().map_or("", |guards| guards.locks());
        #[cfg(feature = "testing")]
        context.fault_before_begin().await;
        let tx = begin::transaction(context, function.begin_sql(), locks, shared.as_deref()).await?;
        if let (Some(guards), false) = (&mut self.queue_guards, self.status.is_begin_pending()) {
            guards.locked_in_server();
        }
        Ok(tx)
    }

    /// Name and options of this call.
    fn function(&self) -> &Function {
        self.own.as_deref().unwrap_or(&self.callsite.function)
    }

    /// What comes before an attempt has a connection: checks, a fresh status, and the wait for other calls.
    async fn prepare(&mut self) -> Result<(), AttemptOutcome> {
        if let (Some(outer), 0) = (self.outer, self.attempt) {
            self.check_not_nested(outer)?;
        }
        if self.deadline.has_passed() {
            let phase = if self.pool.is_some() { Phase::Pool } else { Phase::Begin };
            return Err(AttemptOutcome::not_begun(Error::deadline(phase), None, None));
        }
        if self.attempt > 0 {
            self.status = AttemptStatus::default();
        }
        self.attempt += 1;
        #[cfg(feature = "testing")]
        self.plan_faults();
        self.spans.begin_attempt(self.attempt);
        if self.must_run_alone() || self.queue_guards.is_some() {
            // Boxed, because it is rare, and every call's future would otherwise be that much larger.
            Box::pin(self.wait_for_others()).await?;
        }
        Ok(())
    }

    /// Emits an event if the call should have been nested, and refuses it on the pool of the outer call.
    fn check_not_nested(&self, outer: RunningCall) -> Result<(), AttemptOutcome> {
        let independent = self.function().policy.independent;
        self.id().emit(Event::NotNested { outer: outer.function, independent }, None);
        if self.pool.is_none() || self.pool != outer.pool || independent {
            return Ok(());
        }
        let error = Error::NotNested { outer: outer.function, inner: self.function().name };
        Err(AttemptOutcome::not_begun(error, None, None))
    }

    fn id(&self) -> AttemptId {
        AttemptId {
            function: self.function().name,
            attempt: self.attempt,
            counters: &self.callsite.counters,
            span: self.spans.id(),
        }
    }

    fn history(&self) -> History {
        History {
            attempts: self.attempt,
            elapsed: self.clock.elapsed_at(Instant::now()),
            failures: self.failures.clone(),
        }
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
        self.has_escalated() || self.shared.as_ref().is_some_and(|shared| shared.closed_until().is_some())
    }

    fn has_escalated(&self) -> bool {
        let escalate_after = self.function().policy.escalate_after;
        self.shared.is_some() && escalate_after.is_some_and(|conflicts| self.budgets.conflicts() >= conflicts)
    }

    /// Waits for other calls of the function.
    async fn wait_for_others(&mut self) -> Result<(), AttemptOutcome> {
        let escalated = self.has_escalated();
        let Some(shared) = &self.shared else { return Ok(()) };
        let wait = shared.wait(self.queue_guards.get_or_insert_default(), escalated);
        let waited_before = self.clock.waiting();
        let wait = self.clock.wait(self.deadline.bound(wait)).await;
        let time = self.clock.waiting().saturating_sub(waited_before);
        if !time.is_zero() {
            self.id().emit(Event::Queued { time }, None);
        }
        wait.map_err(|Expired| AttemptOutcome::not_begun(Error::deadline(Phase::Queue), None, None))
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.is_over && !matches!(self.source, Kind::Nested(_)) {
            self.end(CallResult::Dropped, false, Instant::now());
        }
        let commit = self.status.take_commit();
        match self.session.take() {
            // A flush without a reply counts as a part of the transaction.
            Some(session) if self.status.is_in_transaction() => {
                let reusable = !self.status.has_cancel_on_its_way();
                clean_up::hand_over(session, commit, reusable, self.id());
            }
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
            .field("function", &self.function().name)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
