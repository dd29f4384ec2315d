//! Which failures an attempt has seen, and which decides.

use crate::classify::Failure;

/// What is known of failures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The failure that decides.
    pub(crate) failure: Option<Recorded>,
    /// The first statement whose reply was not waited for.
    unanswered: Option<u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) statement: u32,
    pub(crate) failure: Failure,
}

impl Seen {
    pub(crate) fn cause_unseen(&self) -> bool {
        match (&self.failure, self.unanswered) {
            (Some(recorded), Some(unanswered)) => recorded.failure.is_symptom() && unanswered <= recorded.statement,
            _ => false,
        }
    }

    pub(crate) fn leave_unanswered(&mut self, statement: u32) {
        let first = self.unanswered.map_or(statement, |first| first.min(statement));
        self.unanswered = Some(first);
    }

    pub(crate) fn record(&mut self, new: Recorded) {
        let replaces = match &self.failure {
            None => true,
            Some(old) if old.failure.class.is_conflict() => false,
            Some(old) => new.failure.class.is_conflict() || (old.failure.is_symptom() && !new.failure.is_symptom()),
        };
        if replaces {
            self.failure = Some(new);
        }
    }
}
