//! What the layers around a pool decide: whether an attempt may begin, and whether it may be repeated.

use std::time::Duration;

use crate::call::Call;
use crate::call::outcome::AttemptOutcome;
use crate::call::retry::RetryCause;
use crate::error::Error;
use crate::events::Event;
use crate::pool::protection::Change;

impl Call<'_> {
    /// Asks the pool's circuit, before a session is taken. If it refuses, the call ends.
    pub(super) fn admit(&mut self) -> Result<(), AttemptOutcome> {
        match self.protection.admit() {
            Ok(admission) => {
                self.admission = admission;
                Ok(())
            }
            Err(retry_after) => {
                Err(AttemptOutcome::not_begun(Error::CircuitOpen { retry_after, source: None }, None, None))
            }
        }
    }

    /// Tells the pool's layers how the attempt ended.
    pub(super) fn tell_protection(&mut self, outcome: &AttemptOutcome) {
        if outcome.is_committed() {
            self.protection.committed();
        }
        let Some(admission) = self.admission.take() else { return };
        let Some(health) = outcome.health(self.status.has_expired_in_statement()) else { return };
        let event = match admission.end(health) {
            Some(Change::Opened) => Event::CircuitOpened { pool: self.pool },
            Some(Change::Closed) => Event::CircuitClosed { pool: self.pool },
            None => return,
        };
        self.id().emit(event, outcome.failure.as_ref());
    }

    /// Why the pool does not allow a retry after this delay, if it does not. If it does, the token of the retry is taken.
    pub(super) fn refuses_retry(&self, cause: RetryCause, delay: Duration) -> Option<&'static str> {
        if self.protection.refuses_after(delay) {
            return Some("circuit open");
        }
        let is_allowed = cause.is_outside_budgets() || self.protection.take_token(cause.is_conflict());
        (!is_allowed).then_some("retry budget")
    }
}
