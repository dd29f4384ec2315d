//! Emits the end of attempts and of the call.

use std::time::Instant;

use crate::call::Call;
use crate::call::outcome::AttemptOutcome;
use crate::error::{FailedAttempt, Phase};
use crate::events::{AttemptEnd, CallEnd, CallResult, Event};

impl Call<'_> {
    /// Emits the end of an attempt. `is_ok`: the body returned `Ok`, or did not run.
    pub(super) fn end_attempt(&mut self, outcome: &AttemptOutcome, is_ok: bool, now: Instant) {
        let time = self.clock.attempt_ended(now, outcome.phase, outcome.retry.is_some());
        let reason = outcome.reason().or_else(|| (!is_ok).then_some("body_error"));
        let failure = outcome.failure.as_ref();
        let end = AttemptEnd { reason, phase: outcome.phase, time };
        self.id().emit(Event::AttemptEnded(&end), failure);
        self.spans.end_attempt(&end, failure);
        // A call that was not retried has no history.
        if let (Some(reason), true) = (reason, self.attempt > 1 || outcome.retry.is_some()) {
            let sqlstate = failure.and_then(|failure| failure.code()).map(Into::into);
            self.failures.remember(FailedAttempt {
                reason,
                sqlstate,
                phase: outcome.phase,
                duration: time,
                delay: None,
            });
        }
    }

    /// Emits the end of a call that was committed, and its attempt's: the way that most calls end.
    pub(super) fn end_committed(&mut self, now: Instant) {
        let time = self.clock.attempt_ended(now, Phase::Commit, false);
        self.id().emit(Event::AttemptEnded(&AttemptEnd { reason: None, phase: Phase::Commit, time }), None);
        self.end(CallResult::Ok, true, now);
    }

    /// Emits the end of the call.
    pub(super) fn end(&mut self, result: CallResult, is_committed: bool, now: Instant) {
        self.is_over = true;
        let clock = &self.clock;
        let (time, wasted, waiting) = (clock.elapsed_at(now), clock.wasted(), clock.waiting());
        let end = CallEnd { result, is_committed, attempts: self.attempt, time, wasted, waiting };
        self.id().emit(Event::CallEnded(&end), None);
        self.spans.end_call(&end);
    }
}
