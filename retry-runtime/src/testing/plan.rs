//! What a test asks for: a fault, and the attempts that it hits.

use crate::testing::attempt::{Attempt, PlannedFault};
use crate::testing::fault::{Fault, Place};

/// Which fault hits which calls: by default the first attempt of every call, just before `COMMIT`. Two faults do not come
/// there: by default [`Fault::SessionTerminated`] comes in place of the first statement, and [`Fault::PoolExhausted`] before
/// `BEGIN`.
///
/// A nested call is a part of the outermost call, and has no faults of its own.
///
/// ```
/// use retry_runtime::testing::{Fault, Plan};
///
/// const PLAN: Plan = Plan::new(Fault::ConnectionClosed).before_statement(2).on_attempt(2).of(&["place_order"]);
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    fault: Fault,
    place: Place,
    attempt: u32,
    functions: &'static [&'static str],
}

impl Plan {
    /// Every call has this fault in its first attempt.
    #[must_use]
    pub const fn new(fault: Fault) -> Self {
        Self { fault, place: fault.default_place(), attempt: 1, functions: &[] }
    }

    /// [`Fault::ConnectionClosed`] comes before `BEGIN`, as if the connection had closed while it was idle in the pool.
    ///
    /// # Panics
    /// If the fault can only come later.
    #[must_use]
    pub const fn before_begin(self) -> Self {
        self.at(Place::Begin)
    }

    /// The fault comes in place of this statement of the attempt: 1 for the first. The body gets the error. After
    /// [`Fault::Slow`] the statement runs.
    ///
    /// All methods of [`Transaction`](crate::Transaction) that send something count, `prepare` too, and those of nested
    /// calls. If the attempt has fewer statements, there is no fault.
    ///
    /// # Panics
    /// If `statement` is 0, or if the fault is [`Fault::CommitUnknown`] or [`Fault::PoolExhausted`].
    #[must_use]
    pub const fn before_statement(self, statement: u32) -> Self {
        assert!(statement > 0, "the first statement is number 1");
        self.at(Place::Statement(statement))
    }

    pub(super) const fn at(self, place: Place) -> Self {
        assert!(self.fault.fits(place), "this fault cannot come at this place");
        Self { place, ..self }
    }

    /// The fault comes in this attempt: 1 for the first.
    ///
    /// # Panics
    /// If `attempt` is 0.
    #[must_use]
    pub const fn on_attempt(self, attempt: u32) -> Self {
        assert!(attempt > 0, "the first attempt is number 1");
        Self { attempt, ..self }
    }

    /// Only calls of these functions have the fault.
    ///
    /// A name is the one in events and errors, such as `shop::orders::place_order`, or its last parts: `place_order`.
    #[must_use]
    pub const fn of(self, functions: &'static [&'static str]) -> Self {
        Self { functions, ..self }
    }

    /// The fault of an attempt, if it has one.
    pub(crate) fn fault_of(&self, attempt: &Attempt<'_>) -> Option<PlannedFault> {
        let aims_at = |name: &&str| is_named(attempt.function, name);
        let hits = self.attempt == attempt.number && (self.functions.is_empty() || self.functions.iter().any(aims_at));
        hits.then_some(PlannedFault { fault: self.fault, place: self.place })
    }
}

/// Whether `name` is the path of the function, or its last parts.
fn is_named(function: &str, name: &str) -> bool {
    function.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    #[test]
    fn a_fault_comes_only_at_its_places() {
        let refuses = |plan: fn() -> Plan| std::panic::catch_unwind(plan).is_err();
        assert!(refuses(|| Plan::new(Fault::PoolExhausted).before_statement(1)));
        assert!(refuses(|| Plan::new(Fault::CommitUnknown { committed: true }).before_statement(1)));
        assert!(refuses(|| Plan::new(Fault::Deadlock).before_begin()));
        assert!(refuses(|| Plan::new(Fault::Deadlock).before_statement(0)));
        assert!(!refuses(|| Plan::new(Fault::ConnectionClosed).before_begin().before_statement(1)));
        for fault in Fault::FAILURES {
            assert!(fault.fits(fault.default_place()), "{fault:?}");
        }
    }

    #[test]
    fn a_plan_aims_at_functions_and_attempts() {
        let plan = Plan::new(Fault::Deadlock).on_attempt(2).of(&["pay", "orders::place"]);
        let hits = |function, number| {
            let (policy, is_pooled, is_savepoint) = (&Policy::DEFAULT, true, false);
            plan.fault_of(&Attempt { function, number, policy, is_pooled, is_savepoint }).is_some()
        };
        assert!(hits("shop::pay", 2) && hits("pay", 2) && hits("shop::orders::place", 2));
        assert!(!hits("shop::pay", 1) && !hits("shop::repay", 2) && !hits("shop::place", 2));
    }
}
