//! Retry budgets and delays: whether a failed attempt is repeated, which budget pays, and how long the call sleeps.

use std::time::{Duration, Instant};

use crate::backoff::{self, Schedule};
use crate::classify::{Class, Failure};
use crate::policy::Policy;

/// Why an attempt is worth repeating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryCause {
    /// Failures of this class are retried.
    Class(Class),
    /// `retry_on` lists its SQLSTATE.
    Listed,
    /// `retry_if` says so.
    Asked,
    /// Only a symptom (25P02) was seen: the reply to the statement that failed was not waited for.
    Unseen,
    /// A cancel request that was meant for another statement hit BEGIN.
    BeginCanceled,
    /// BEGIN found a transaction that other code had left open, which is rolled back now.
    LeftOpen,
}

impl RetryCause {
    /// Why `failure` is worth another attempt, if it is.
    pub(crate) fn of(failure: &Failure, policy: &Policy) -> Option<Self> {
        match failure.class {
            Class::ReadOnly if policy.read_only && failure.is_refused_write() => None,
            Class::CommitUnknown => None,
            Class::Fatal => failure.code().filter(|code| policy.retry_on.contains(code)).map(|_| Self::Listed),
            class => Some(Self::Class(class)),
        }
    }

    /// Whether a concurrent transaction was in the way. `retry_if` is for such errors too, as a stale version.
    pub(crate) fn is_conflict(self) -> bool {
        match self {
            Self::Class(class) => class.is_conflict(),
            Self::Asked => true,
            _ => false,
        }
    }

    /// Whether the next attempt cannot use the session: it has ended, or its server is read-only.
    pub(crate) fn needs_another_session(self) -> bool {
        matches!(self, Self::Class(Class::Connection | Class::ReadOnly))
    }

    pub(crate) fn is_read_only(self) -> bool {
        self == Self::Class(Class::ReadOnly)
    }

    pub(crate) fn is_stale_plan(self) -> bool {
        self == Self::Class(Class::StalePlan)
    }

    /// Whether the next attempt should reuse this session, because its problem is fixed.
    pub(crate) fn keeps_session(self) -> bool {
        self.is_outside_budgets()
    }

    /// Whether it is retried once, and no budget pays.
    pub(crate) fn is_outside_budgets(self) -> bool {
        self.is_stale_plan() || self == Self::LeftOpen
    }

    fn schedule(self) -> Schedule {
        match self {
            Self::Class(Class::Connection | Class::Capacity | Class::ReadOnly) => Schedule::Transient,
            _ => Schedule::Conflict,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Class(class) => class.as_str(),
            Self::Listed => "retry_on",
            Self::Asked => "retry_if",
            Self::Unseen => "unseen",
            Self::BeginCanceled => "begin_canceled",
            Self::LeftOpen => "left_open",
        }
    }
}

/// The retries that a call has used.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    retries: u32,
    deadlock_retries: u32,
    replanned: bool,
    left_open: bool,
    /// Whether a retry was because of a read-only connection.
    read_only: bool,
    /// When the first transient failure was seen.
    transient_since: Option<Instant>,
}

impl Budgets {
    /// Spends one retry on `cause` and returns how long to sleep before it. `None`: the budget is spent.
    pub(crate) fn spend(&mut self, cause: RetryCause, policy: &Policy) -> Option<Duration> {
        let (spent, budget) = match cause {
            RetryCause::Class(Class::StalePlan) => return once(&mut self.replanned),
            RetryCause::LeftOpen => return once(&mut self.left_open),
            _ if cause.is_conflict() => (&mut self.deadlock_retries, policy.deadlock_retries()),
            _ => (&mut self.retries, policy.retries),
        };
        let schedule = cause.schedule();
        let in_time = schedule == Schedule::Transient
            && policy.retry_for.is_some_and(|time| {
                let since = self.transient_since.get_or_insert_with(Instant::now);
                since.elapsed() < time
            });
        if *spent >= budget && !in_time {
            return None;
        }
        *spent = spent.saturating_add(1);
        self.read_only |= cause.is_read_only();
        // Beyond the budget, each delay is as long as the last one within it, or `max_delay` if the budget is too small.
        let (n, budget) = if *spent > budget { (2, 2) } else { (*spent, budget) };
        Some(backoff::delay(policy, schedule, n, budget, &mut rand::rng()))
    }

    /// Whether the call was retried because of a read-only connection.
    pub(crate) fn has_met_read_only(&self) -> bool {
        self.read_only
    }

    /// How many retries were because of conflicts.
    pub(crate) fn conflicts(&self) -> u32 {
        self.deadlock_retries
    }
}

/// A retry outside the budgets, without a delay.
fn once(spent: &mut bool) -> Option<Duration> {
    (!std::mem::replace(spent, true)).then_some(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::counters::REASONS;
    use crate::policy::Jitter;

    const POLICY: Policy = Policy { retries: 2, deadlock_retries: Some(3), jitter: Jitter::None, ..Policy::DEFAULT };

    fn millis(budgets: &mut Budgets, cause: RetryCause) -> Option<u128> {
        millis_under(&POLICY, budgets, cause)
    }

    fn millis_under(policy: &Policy, budgets: &mut Budgets, cause: RetryCause) -> Option<u128> {
        budgets.spend(cause, policy).map(|delay| delay.as_millis())
    }

    #[test]
    fn budgets_are_counted_apart_and_each_follows_its_schedule() {
        let mut budgets = Budgets::default();
        assert_eq!(millis(&mut budgets, RetryCause::Class(Class::Deadlock)), Some(1));
        assert_eq!(millis(&mut budgets, RetryCause::Class(Class::Connection)), Some(20));
        assert_eq!(millis(&mut budgets, RetryCause::Class(Class::Serialization)), Some(7));
        assert_eq!(millis(&mut budgets, RetryCause::Asked), Some(50));
        assert_eq!(millis(&mut budgets, RetryCause::Class(Class::Lock)), None);
        assert_eq!(millis(&mut budgets, RetryCause::Class(Class::Capacity)), Some(1_000));
        assert_eq!(millis(&mut budgets, RetryCause::Class(Class::ReadOnly)), None);
        assert_eq!(millis(&mut budgets, RetryCause::Listed), None);
        assert_eq!(millis(&mut budgets, RetryCause::Unseen), None);
    }

    #[test]
    fn listed_and_unseen_failures_wait_as_conflicts_do() {
        let mut budgets = Budgets::default();
        assert_eq!(millis(&mut budgets, RetryCause::Listed), Some(1));
        assert_eq!(millis(&mut budgets, RetryCause::Unseen), Some(50));
        assert_eq!(millis(&mut budgets, RetryCause::Listed), None);
    }

    #[test]
    fn transient_failures_are_retried_for_a_time_beyond_their_budget() {
        let policy = Policy { retry_for: Some(Duration::from_secs(60)), ..POLICY };
        let mut budgets = Budgets::default();
        let millis = |budgets: &mut Budgets, cause| millis_under(&policy, budgets, cause);
        let connection = RetryCause::Class(Class::Connection);
        for expected in [20, 1_000, 1_000, 1_000] {
            assert_eq!(millis(&mut budgets, connection), Some(expected));
        }
        assert_eq!(millis(&mut budgets, RetryCause::Listed), None, "it is not transient, and the budget is spent");
        budgets.transient_since = Instant::now().checked_sub(Duration::from_secs(61));
        assert_eq!(millis(&mut budgets, connection), None);
        let mut budgets = Budgets { transient_since: budgets.transient_since, ..Budgets::default() };
        assert_eq!(millis(&mut budgets, connection), Some(20), "the budget is not spent");
    }

    #[test]
    fn one_retry_may_be_the_whole_budget() {
        let policy = Policy { retries: 1, retry_for: Some(Duration::from_secs(60)), ..POLICY };
        let mut budgets = Budgets::default();
        let mut millis = || millis_under(&policy, &mut budgets, RetryCause::Class(Class::Connection));
        assert_eq!([millis(), millis(), millis()], [Some(20), Some(1_000), Some(1_000)]);
    }

    #[test]
    fn a_call_knows_which_retries_it_has_used() {
        let mut budgets = Budgets::default();
        assert!(!budgets.has_met_read_only() && budgets.conflicts() == 0);
        for cause in [Class::Connection, Class::Deadlock, Class::Serialization] {
            assert!(millis(&mut budgets, RetryCause::Class(cause)).is_some());
        }
        assert!(!budgets.has_met_read_only() && budgets.conflicts() == 2);
        assert!(millis(&mut budgets, RetryCause::Class(Class::ReadOnly)).is_some());
        assert!(budgets.has_met_read_only());
        assert_eq!(millis(&mut budgets, RetryCause::Asked), Some(50));
        assert!(budgets.has_met_read_only() && budgets.conflicts() == 3, "once is enough");
    }

    #[test]
    fn a_transaction_left_open_is_rolled_back_once() {
        let mut budgets = Budgets::default();
        assert_eq!(millis(&mut budgets, RetryCause::LeftOpen), Some(0));
        assert_eq!(millis(&mut budgets, RetryCause::LeftOpen), None);
        assert_eq!(millis(&mut budgets, RetryCause::Class(Class::StalePlan)), Some(0));
    }

    #[test]
    fn the_class_decides_unless_the_policy_says_otherwise() {
        let cause = |failure: &Failure| RetryCause::of(failure, &POLICY);
        assert_eq!(cause(&Failure::of_code("40001")), Some(RetryCause::Class(Class::Serialization)));
        assert_eq!(cause(&Failure::of_code("08007")), None);
        assert_eq!(cause(&Failure::of_code("23505")), None);
        let listed = Policy { retry_on: &["23505"], ..POLICY };
        assert_eq!(RetryCause::of(&Failure::of_code("23505"), &listed), Some(RetryCause::Listed));
        let read_only = RetryCause::Class(Class::ReadOnly);
        assert_eq!(cause(&Failure::of_code("25006")), Some(read_only));
        let reader = Policy { read_only: true, ..POLICY };
        assert_eq!(RetryCause::of(&Failure::of_code("25006"), &reader), None, "its body writes");
        assert_eq!(RetryCause::of(&Failure::of_session(Class::ReadOnly), &reader), Some(read_only));
    }

    #[test]
    fn a_retry_needs_another_session_or_keeps_this_one() {
        let needs_another = |class| RetryCause::Class(class).needs_another_session();
        assert!(needs_another(Class::Connection) && needs_another(Class::ReadOnly) && !needs_another(Class::Deadlock));
        let stale_plan = RetryCause::Class(Class::StalePlan);
        assert!(
            stale_plan.keeps_session() && RetryCause::LeftOpen.keeps_session() && !RetryCause::Asked.keeps_session()
        );
    }

    #[test]
    fn every_cause_has_a_counter() {
        use Class::{Capacity, Connection, Deadlock, Lock, ReadOnly, Serialization, StalePlan};
        use RetryCause::{Asked, BeginCanceled, LeftOpen, Listed, Unseen};
        let classes = [Serialization, Deadlock, Lock, Connection, Capacity, ReadOnly, StalePlan];
        let causes = classes.map(RetryCause::Class).into_iter().chain([Listed, Asked, Unseen, BeginCanceled, LeftOpen]);
        assert!(causes.map(RetryCause::as_str).eq(REASONS.into_iter().filter(|reason| *reason != "other")));
    }

    #[test]
    fn a_stale_plan_is_retried_once_outside_the_budgets() {
        let mut budgets = Budgets::default();
        assert_eq!(millis(&mut budgets, RetryCause::Class(Class::StalePlan)), Some(0));
        assert_eq!(millis(&mut budgets, RetryCause::Class(Class::StalePlan)), None);
        assert_eq!(millis(&mut budgets, RetryCause::Class(Class::Connection)), Some(20));
    }
}
