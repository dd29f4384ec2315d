//! A `#[transactional]` function, and what its calls share: per pool, the gate and the queues.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, OnceLock, PoisonError};

use crate::call::begin_sql::BeginSql;
use crate::call::deadlock_gate::DeadlockGate;
use crate::call::queue::{QueueGuards, Queues};
use crate::call::server_timeout::SessionTimeout;
use crate::events::counters::Counters;
use crate::policy::{Damping, Policy};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Instant, Mutex};
use crate::transaction::deadline::Deadline;

/// A `#[transactional]` function.
#[derive(Debug)]
pub struct Callsite {
    pub(crate) function: Function,
    per_pool: PerPool,
    pub(crate) counters: Counters,
}

/// A function's name and options, or those of one call.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) policy: Policy,
    begin_sql: OnceLock<BeginSql>,
}

impl Callsite {
    /// Checks the policy: at compile time in a `static`.
    #[must_use]
    pub const fn new(name: &'static str, policy: Policy) -> Self {
        policy.validate();
        Self { function: Function::new(name, policy), per_pool: PerPool::new(), counters: Counters::new(name) }
    }

    /// What the calls on this pool share. `None` stands for all calls without a pool.
    pub(crate) fn shared(&self, pool: Option<usize>) -> Arc<Shared> {
        self.per_pool.get(pool, self.function.policy.damping == Damping::On)
    }
}

impl Function {
    pub(crate) const fn new(name: &'static str, policy: Policy) -> Self {
        Self { name, policy, begin_sql: OnceLock::new() }
    }

    /// What begins every transaction.
    pub(crate) fn begin_sql(&self) -> &BeginSql {
        self.begin_sql.get_or_init(|| BeginSql::new(&self.policy))
    }
}

/// What the calls of one function on one pool share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// `None` with `damping = "off"`, and for calls without a pool.
    pub(crate) gate: Option<DeadlockGate>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) session_timeout: SessionTimeout,
    /// Whether the server is known to flush as early release needs it.
    can_flush: AtomicBool,
}

impl Shared {
    pub(crate) fn can_flush(&self) -> bool {
        self.can_flush.load(Ordering::Relaxed)
    }

    pub(crate) fn set_can_flush(&self) {
        self.can_flush.store(true, Ordering::Relaxed);
    }

    /// Until when calls run one at a time, if they do.
    pub(crate) fn closed_until(&self) -> Option<Instant> {
        self.gate.as_ref().and_then(DeadlockGate::closed_until)
    }

    /// Waits among the calls with equal keys, and then for the turn to run alone, if the call has escalated or the gate
    /// is closed. All calls keep this order, so that no two wait for each other.
    pub(crate) async fn wait(&self, guards: &mut QueueGuards, escalated: bool) {
        if !guards.has_turn() {
            guards.wait_in_line(&self.queues).await;
        }
        let mut alone = pin!(guards.wait_for_turn(&self.queues));
        if escalated {
            return alone.await;
        }
        // Not longer than the gate is closed: the body of the call that has the turn may be waiting for this call.
        while let Some(time) = self.closed_until() {
            if Deadline::at(time).bound(alone.as_mut()).await.is_ok() {
                return;
            }
        }
    }
}

/// From this many pools on, a function forgets those without calls before it adds another.
const MANY_POOLS: usize = 64;

/// By [`Pool::id`](crate::Pool::id), or `None` for calls without a pool.
#[derive(Debug)]
struct PerPool(Mutex<BTreeMap<Option<usize>, Arc<Shared>>>);

impl PerPool {
    const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn get(&self, pool: Option<usize>, damping: bool) -> Arc<Shared> {
        let mut per_pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = per_pool.get(&pool) {
            return shared.clone();
        }
        if per_pool.len() >= MANY_POOLS {
            // Most of these pools no longer exist. If one does, its gate starts from zero.
            per_pool.retain(|_, shared| Arc::strong_count(shared) > 1 || shared.closed_until().is_some());
        }
        let gate = (damping && pool.is_some()).then(DeadlockGate::new);
        let shared = Arc::new(Shared {
            gate,
            queues: Arc::default(),
            session_timeout: SessionTimeout::default(),
            can_flush: AtomicBool::new(false),
        });
        per_pool.insert(pool, shared.clone());
        shared
    }
}

#[cfg(all(test, shuttle))]
mod schedules;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn calls_share_per_pool() {
        let per_pool = PerPool::new();
        let shared = per_pool.get(Some(1), true);
        assert!(Arc::ptr_eq(&shared, &per_pool.get(Some(1), true)));
        assert!(!Arc::ptr_eq(&shared, &per_pool.get(Some(2), true)));
        assert!(shared.gate.is_some());
        assert!(per_pool.get(None, true).gate.is_none());
        assert!(PerPool::new().get(Some(1), false).gate.is_none());
    }

    #[test]
    fn of_many_pools_only_those_in_use_are_kept() {
        let per_pool = PerPool::new();
        let used = per_pool.get(Some(0), true);
        let shared = |pool| per_pool.get(Some(pool), true);
        let timer = shared(1).gate.as_ref().map(|gate| gate.begin(false)).expect("it has a gate");
        std::thread::sleep(Duration::from_millis(20));
        shared(1).gate.as_ref().and_then(|gate| gate.deadlocked(timer)).expect("it closes");
        for pool in 2..10_000 {
            per_pool.get(Some(pool), true);
            assert!(per_pool.0.lock().expect("no test has failed").len() <= MANY_POOLS);
        }
        assert!(Arc::ptr_eq(&used, &per_pool.get(Some(0), true)), "it is in use");
    }
}
