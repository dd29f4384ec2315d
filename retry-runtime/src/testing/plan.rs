//! What a test asks for: a fault, and the attempts that it hits.

use crate::testing::attempt::{Attempt, PlannedFault};
use crate::testing::fault::Fault;

/// Which fault hits which calls: by default the first attempt of every call, just before `COMMIT`.
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
    statement: Option<u32>,
    attempt: u32,
    functions: &'static [&'static str],
}

impl Plan {
    /// Every call has this fault in its first attempt, just before `COMMIT`.
    #[must_use]
    pub const fn new(fault: Fault) -> Self {
        Self { fault, statement: None, attempt: 1, functions: &[] }
    }

    /// The fault comes in place of this statement of the attempt: 1 for the first. The body gets the error.
    ///
    /// All methods of [`Transaction`](crate::Transaction) that send something count, `prepare` too, and those of nested
    /// calls. If the attempt has fewer statements, there is no fault.
    ///
    /// # Panics
    /// If `statement` is 0, or if the fault is [`Fault::CommitUnknown`].
    #[must_use]
    pub const fn before_statement(self, statement: u32) -> Self {
        assert!(statement > 0, "the first statement is number 1");
        assert!(!self.fault.is_of_commit(), "`CommitUnknown` happens at COMMIT");
        Self { statement: Some(statement), ..self }
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
        hits.then_some(PlannedFault { fault: self.fault, statement: self.statement })
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
