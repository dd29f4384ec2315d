//! The options that a call sets itself.

use std::time::Duration;

use crate::call::callsite::Function;
use crate::policy::{Isolation, Policy};

/// For each that is `None`, the function's own applies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) retries: Option<u32>,
    pub(crate) retry_for: Option<Duration>,
    pub(crate) deadlock_retries: Option<u32>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) isolation: Option<Isolation>,
    pub(crate) name: Option<&'static str>,
}

impl Options {
    /// The function with these options.
    pub(crate) fn of(&self, function: &Function) -> Function {
        let policy = Policy {
            retries: self.retries.unwrap_or(function.policy.retries),
            retry_for: self.retry_for.or(function.policy.retry_for),
            deadlock_retries: self.deadlock_retries.or(function.policy.deadlock_retries),
            deadline: self.deadline.or(function.policy.deadline),
            // The body may rely on the level that its attribute states.
            isolation: self.isolation.max(function.policy.isolation),
            ..function.policy
        };
        Function::new(self.name.unwrap_or(function.name), policy)
    }
}
