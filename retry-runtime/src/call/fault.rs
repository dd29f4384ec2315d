//! Gives each attempt the faults that a test plans for it.

use crate::call::Call;
use crate::call::outcome::AttemptOutcome;
use crate::call::session;
use crate::error::PoolError;
use crate::testing::attempt::{Attempt, AttemptFaults};
use crate::testing::scope;

impl Call<'_> {
    /// An attempt is about to begin.
    pub(super) fn plan_faults(&self) {
        let function = self.function();
        let attempt = Attempt {
            function: function.name,
            number: self.attempt,
            policy: &function.policy,
            is_pooled: self.pool.is_some(),
            is_savepoint: self.source.is_savepoint(),
        };
        let planned = scope::faults_of(&attempt);
        self.status.with_faults(|faults| *faults = planned);
    }

    /// The pool is about to be asked for a session.
    pub(super) fn fault_of_pool(&self) -> Result<(), AttemptOutcome> {
        if !self.status.with_faults(AttemptFaults::exhausts_pool) {
            return Ok(());
        }
        let error = PoolError::timeout("no connection was free in time (a fault of retry_runtime::testing)");
        Err(session::refused(error, &self.function().policy))
    }
}
