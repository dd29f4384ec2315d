//! What protects a pool and its server from their own callers.

mod circuit;

use std::time::Duration;

pub(crate) use self::circuit::{Admission, Change, Circuit, Health, OPEN_FOR};

/// What protects a [`Pool`](crate::Pool) and its server from their own callers. By default nothing does.
///
/// [`WithBreaker`](crate::WithBreaker) adds to it. A pool of your own that wraps another one only passes it on:
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
}

impl<'a> Protection<'a> {
    pub(crate) fn with_circuit(mut self, circuit: &'a Circuit) -> Self {
        self.circuit = Some(circuit);
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
}
