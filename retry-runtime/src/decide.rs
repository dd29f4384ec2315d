//! Whether a failed attempt gets another one: its cause, the budget that pays, and the delay.

use std::time::Duration;

use crate::backoff::{self, Schedule};
use crate::classify::{Class, Failure};
use crate::policy::Policy;

/// Why an attempt is worth repeating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The class of the failure says so.
    Class(Class),
    /// `retry_on` lists its SQLSTATE.
    Listed,
    /// `retry_if` says so.
    Asked,
    /// Only the symptom (25P02) of an unanswered statement's failure was seen.
    Unseen,
    /// A cancel request that was meant for something else hit BEGIN.
    BeginCanceled,
    /// BEGIN found a transaction that somebody had left open. That one is rolled back.
    LeftOpen,
}

impl Cause {
    /// What makes `failure` worth another attempt, if anything does.
    pub(crate) fn of(failure: &Failure, policy: &Policy) -> Option<Self> {
        match failure.class {
            Class::ReadOnly if policy.read_only && failure.is_refused_write() => None,
            Class::CommitUnknown => None,
            Class::Fatal => failure.code().filter(|code| policy.retry_on.contains(code)).map(|_| Self::Listed),
            class => Some(Self::Class(class)),
        }
    }

    /// Whether the attempt lost to a concurrent one, as far as it is known.
    pub(crate) fn is_conflict(self) -> bool {
        match self {
            Self::Class(class) => class.is_conflict(),
            Self::Asked => true,
            _ => false,
        }
    }

    /// Whether the session is of no use to the next attempt: gone, or with a server that only reads.
    pub(crate) fn needs_another_session(self) -> bool {
        matches!(self, Self::Class(Class::Connection | Class::ReadOnly))
    }

    pub(crate) fn is_read_only(self) -> bool {
        self == Self::Class(Class::ReadOnly)
    }

    pub(crate) fn is_stale_plan(self) -> bool {
        self == Self::Class(Class::StalePlan)
    }

    /// Whether this session, now that it is put right, is the best one for the next attempt.
    pub(crate) fn keeps_session(self) -> bool {
        self.is_stale_plan() || self == Self::LeftOpen
    }

    fn schedule(self) -> Schedule {
        match self {
            Self::Class(Class::Connection | Class::Capacity | Class::ReadOnly) => Schedule::Surroundings,
            _ => Schedule::Conflict,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Class(Class::Serialization) => "serialization",
            Self::Class(Class::Deadlock) => "deadlock",
            Self::Class(Class::Lock) => "lock",
            Self::Class(Class::Connection) => "connection",
            Self::Class(Class::Capacity) => "capacity",
            Self::Class(Class::ReadOnly) => "read_only",
            Self::Class(Class::StalePlan) => "stale_plan",
            Self::Class(Class::CommitUnknown) => "commit_unknown",
            Self::Class(Class::Fatal) => "fatal",
            Self::Listed => "retry_on",
            Self::Asked => "retry_if",
            Self::Unseen => "unseen",
            Self::BeginCanceled => "begin_canceled",
            Self::LeftOpen => "left_open",
        }
    }
}

/// What a call has spent of its budgets.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    retries: u32,
    deadlock_retries: u32,
    replanned: bool,
    reopened: bool,
    /// Whether a retry was for a connection that only reads.
    read_only: bool,
}

impl Spent {
    /// Takes one retry for `cause` and returns how long to wait before it. `None`: the budget is spent.
    pub(crate) fn take(&mut self, cause: Cause, policy: &Policy) -> Option<Duration> {
        let (spent, budget) = match cause {
            Cause::Class(Class::StalePlan) => return once(&mut self.replanned),
            Cause::LeftOpen => return once(&mut self.reopened),
            _ if cause.is_conflict() => (&mut self.deadlock_retries, policy.deadlock_retries()),
            _ => (&mut self.retries, policy.retries),
        };
        if *spent >= budget {
            return None;
        }
        *spent += 1;
        self.read_only |= cause.is_read_only();
        Some(backoff::delay(policy, cause.schedule(), *spent, budget, &mut rand::rng()))
    }

    /// Whether the call has met a connection that only reads.
    pub(crate) fn has_met_read_only(&self) -> bool {
        self.read_only
    }

    /// How often the call has lost to a concurrent one.
    pub(crate) fn conflicts(&self) -> u32 {
        self.deadlock_retries
    }
}

/// A retry outside the budgets, at once.
fn once(spent: &mut bool) -> Option<Duration> {
    (!std::mem::replace(spent, true)).then_some(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Jitter;

    const POLICY: Policy = Policy { retries: 2, deadlock_retries: Some(3), jitter: Jitter::None, ..Policy::DEFAULT };

    fn millis(spent: &mut Spent, cause: Cause) -> Option<u128> {
        spent.take(cause, &POLICY).map(|delay| delay.as_millis())
    }

    #[test]
    fn budgets_are_counted_apart_and_each_follows_its_schedule() {
        let mut spent = Spent::default();
        assert_eq!(millis(&mut spent, Cause::Class(Class::Deadlock)), Some(1));
        assert_eq!(millis(&mut spent, Cause::Class(Class::Connection)), Some(20));
        assert_eq!(millis(&mut spent, Cause::Class(Class::Serialization)), Some(7));
        assert_eq!(millis(&mut spent, Cause::Asked), Some(50));
        assert_eq!(millis(&mut spent, Cause::Class(Class::Lock)), None);
        assert_eq!(millis(&mut spent, Cause::Class(Class::Capacity)), Some(1_000));
        assert_eq!(millis(&mut spent, Cause::Class(Class::ReadOnly)), None);
        assert_eq!(millis(&mut spent, Cause::Listed), None);
        assert_eq!(millis(&mut spent, Cause::Unseen), None);
    }

    #[test]
    fn listed_and_unseen_failures_wait_as_conflicts_do() {
        let mut spent = Spent::default();
        assert_eq!(millis(&mut spent, Cause::Listed), Some(1));
        assert_eq!(millis(&mut spent, Cause::Unseen), Some(50));
        assert_eq!(millis(&mut spent, Cause::Listed), None);
    }

    #[test]
    fn a_stale_plan_is_retried_once_outside_the_budgets() {
        let mut spent = Spent::default();
        assert_eq!(millis(&mut spent, Cause::Class(Class::StalePlan)), Some(0));
        assert_eq!(millis(&mut spent, Cause::Class(Class::StalePlan)), None);
        assert_eq!(millis(&mut spent, Cause::Class(Class::Connection)), Some(20));
    }
}
