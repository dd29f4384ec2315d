//! Protection of a pool and its server from overload: a circuit breaker and a retry budget.

mod budget;
mod circuit;

use std::time::Duration;

pub(crate) use self::budget::Budget;
pub(crate) use self::circuit::{Admission, Change, Circuit, Health, OPEN_FOR};

/// The layers that protect a [`Pool`](crate::Pool) and its server from overload. By default there are none.
///
/// [`WithBreaker`](crate::WithBreaker) and [`WithBudget`](crate::WithBudget) add to it. A pool of your own that wraps
/// another one only passes it on:
///
/// ```
/// use retry_runtime::{BoxFuture, Pool, PoolError, Protection, Session};
///
/// struct Counted<P> {
///     pool: P,
///     // …
/// }
///
/// impl<P: Pool> Pool for Counted<P> {
///     fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
///         self.pool.get()
///     }
///     fn id(&self) -> usize {
///         self.pool.id()
///     }
///     fn protection(&self) -> Protection<'_> {
///         self.pool.protection()
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Protection<'a> {
    circuit: Option<&'a Circuit>,
    budget: Option<&'a Budget>,
}

impl<'a> Protection<'a> {
    pub(crate) fn with_circuit(mut self, circuit: &'a Circuit) -> Self {
        self.circuit = Some(circuit);
        self
    }

    pub(crate) fn with_budget(mut self, budget: &'a Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Admits an attempt, or says how long to wait.
    pub(crate) fn admit(self) -> Result<Option<Admission<'a>>, Duration> {
        self.circuit.map(Circuit::admit).transpose()
    }

    /// Whether the circuit would refuse a retry after this delay.
    pub(crate) fn refuses_after(self, delay: Duration) -> bool {
        self.circuit.is_some_and(|circuit| circuit.refuses_after(delay))
    }

    /// Takes the token of a retry. `false`: there is none.
    pub(crate) fn take_token(self, is_conflict: bool) -> bool {
        self.budget.is_none_or(|budget| budget.take(is_conflict))
    }

    /// A transaction was committed.
    pub(crate) fn committed(self) {
        if let Some(budget) = self.budget {
            budget.committed();
        }
    }
}
