//! The faults of one attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::policy::Policy;
use crate::testing::fault::{Fault, Place};
use crate::testing::report;

/// An attempt of an outermost call that is about to begin.
pub(crate) struct Attempt<'a> {
    pub(crate) function: &'static str,
    /// 1 for the first.
    pub(crate) number: u32,
    pub(crate) policy: &'a Policy,
    /// Whether the call has a pool. Without one, the connection is the caller's.
    pub(crate) is_pooled: bool,
    /// Whether it is a savepoint of a transaction that other code began.
    pub(crate) is_savepoint: bool,
}

/// A fault, and when it comes in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlannedFault {
    pub(crate) fault: Fault,
    pub(crate) place: Place,
}

/// What has happened in calls.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// Whether a fault has come.
    pub(crate) has_fault: AtomicBool,
    /// How many hooks have run after a commit.
    pub(crate) hooks: AtomicUsize,
}

/// The faults of an attempt that are still to come.
#[derive(Debug, Default)]
pub(crate) struct AttemptFaults {
    planned: Option<PlannedFault>,
    /// How many statements have left.
    statements: u32,
    /// The outermost function, and those that it has called in its transaction.
    functions: Vec<&'static str>,
    observed: Option<Arc<Observed>>,
}

impl AttemptFaults {
    pub(crate) fn new(function: &'static str, planned: Option<PlannedFault>, observed: Option<Arc<Observed>>) -> Self {
        report::record(&[function], None);
        Self { planned, statements: 0, functions: vec![function], observed }
    }

    /// A nested call is about to begin.
    pub(crate) fn nested(&mut self, function: &'static str) {
        report::record(&[function], None);
        self.functions.push(function);
    }

    /// The pool is about to be asked for a session: whether it must have none.
    pub(crate) fn exhausts_pool(&mut self) -> bool {
        self.take_if(|planned| planned.fault == Fault::PoolExhausted).is_some()
    }

    /// BEGIN is about to leave: whether the connection must close.
    pub(crate) fn closes_before_begin(&mut self) -> bool {
        self.take_if(|planned| planned.fault == Fault::ConnectionClosed && planned.place == Place::Begin).is_some()
    }

    /// A statement is about to leave: what comes in its place, or before it.
    pub(crate) fn before_statement(&mut self) -> Option<Fault> {
        self.statements += 1;
        let place = Place::Statement(self.statements);
        self.take_if(|planned| planned.place == place)
    }

    /// COMMIT is about to leave.
    pub(crate) fn before_commit(&mut self) -> Option<Fault> {
        let is_later = |fault| fault == Fault::CommitUnknown { committed: true };
        self.take_if(|planned| planned.place == Place::Commit && !is_later(planned.fault))
    }

    /// COMMIT has succeeded: whether its reply must not have arrived.
    pub(crate) fn hides_commit(&mut self) -> bool {
        self.take_if(|planned| planned.fault == Fault::CommitUnknown { committed: true }).is_some()
    }

    /// So many hooks are about to run after the commit.
    pub(crate) fn hooks_run(&self, hooks: usize) {
        if let Some(observed) = &self.observed {
            observed.hooks.fetch_add(hooks, Ordering::Relaxed);
        }
    }

    /// The fault, if it comes now.
    fn take_if(&mut self, comes: impl FnOnce(&PlannedFault) -> bool) -> Option<Fault> {
        let fault = self.planned.take_if(|planned| comes(planned))?.fault;
        report::record(&self.functions, Some(fault));
        if let Some(observed) = &self.observed {
            observed.has_fault.store(true, Ordering::Relaxed);
        }
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(fault: Fault, place: Place) -> AttemptFaults {
        AttemptFaults::new("f", Some(PlannedFault { fault, place }), None)
    }

    #[test]
    fn a_fault_comes_once_and_at_its_place() {
        let mut second = faults(Fault::Deadlock, Place::Statement(2));
        assert_eq!(second.before_statement(), None);
        assert_eq!(second.before_commit(), None);
        assert_eq!(second.before_statement(), Some(Fault::Deadlock));
        assert_eq!(second.before_statement(), None);

        let mut at_begin = faults(Fault::ConnectionClosed, Place::Begin);
        assert!(!at_begin.exhausts_pool());
        assert!(at_begin.closes_before_begin() && !at_begin.closes_before_begin());

        let mut of_pool = faults(Fault::PoolExhausted, Place::Begin);
        assert!(!of_pool.closes_before_begin());
        assert!(of_pool.exhausts_pool() && !of_pool.exhausts_pool());

        let mut at_commit = faults(Fault::Deadlock, Place::Commit);
        assert!(!at_commit.closes_before_begin());
        assert_eq!(at_commit.before_statement(), None);
        assert_eq!(at_commit.before_commit(), Some(Fault::Deadlock));
        assert!(at_commit.before_commit().is_none() && !at_commit.hides_commit());

        let mut after = faults(Fault::CommitUnknown { committed: true }, Place::Commit);
        assert_eq!(after.before_commit(), None);
        assert!(after.hides_commit() && !after.hides_commit());
    }
}
