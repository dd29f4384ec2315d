//! `RETRY_FAULTS`: faults for all calls of a process.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::{Mutex, OnceLock, PoisonError};

use siphasher::sip::SipHasher13;

use crate::policy::UnknownCommit;
use crate::testing::attempt::{Attempt, PlannedFault};
use crate::testing::fault::{Fault, Place};

const VARIABLE: &str = "RETRY_FAULTS";

/// The fault that `RETRY_FAULTS` gives an attempt.
///
/// # Panics
/// If the variable has another value than those that the guide lists.
pub(crate) fn fault_of(attempt: &Attempt<'_>) -> Option<PlannedFault> {
    static FAULTS: OnceLock<Option<Faults>> = OnceLock::new();
    let read = || {
        let value = std::env::var_os(VARIABLE).filter(|value| !value.is_empty())?;
        let faults = value.to_str().and_then(Faults::parse);
        Some(faults.unwrap_or_else(|| {
            panic!("{VARIABLE}={value:?}: expected conflict-once, commit-lost-once, every-third or chaos:SEED")
        }))
    };
    // Other code began the transaction of a call that is a savepoint: the call cannot be retried.
    FAULTS.get_or_init(read).as_ref().filter(|_| !attempt.is_savepoint)?.fault_of(attempt)
}

/// What `RETRY_FAULTS` asks for. A call only has faults that its function retries.
#[derive(Debug)]
enum Faults {
    /// In the first attempt of each call.
    ConflictOnce,
    CommitLostOnce,
    /// In every third attempt of the process.
    EveryThird(Mutex<u64>),
    Chaos(Chaos),
}

impl Faults {
    fn parse(value: &str) -> Option<Self> {
        match value {
            "conflict-once" => Some(Self::ConflictOnce),
            "commit-lost-once" => Some(Self::CommitLostOnce),
            "every-third" => Some(Self::EveryThird(Mutex::default())),
            _ => {
                Some(Self::Chaos(Chaos { seed: value.strip_prefix("chaos:")?.parse().ok()?, drawn: Mutex::default() }))
            }
        }
    }

    fn fault_of(&self, attempt: &Attempt<'_>) -> Option<PlannedFault> {
        let at_commit = |fault| PlannedFault { fault, place: Place::Commit };
        let conflict = at_commit(Fault::SerializationFailure);
        match self {
            Self::ConflictOnce => (attempt.number == 1 && allows(attempt, conflict.fault)).then_some(conflict),
            Self::CommitLostOnce => commit_lost_once(attempt).map(at_commit),
            Self::EveryThird(attempts) => {
                if !allows(attempt, conflict.fault) {
                    return None;
                }
                let mut attempts = attempts.lock().unwrap_or_else(PoisonError::into_inner);
                *attempts += 1;
                (*attempts % 3 == 0).then_some(conflict)
            }
            Self::Chaos(chaos) => chaos.fault_of(attempt),
        }
    }
}

/// Whether a call whose attempts have all failed, up to this one, is still retried after this fault.
fn allows(attempt: &Attempt<'_>, fault: Fault) -> bool {
    let retries = match fault {
        Fault::SerializationFailure | Fault::Deadlock | Fault::LockTimeout => attempt.policy.deadlock_retries(),
        // A call without a pool has no other connection.
        _ if !attempt.is_pooled => 0,
        Fault::CommitUnknown { .. }
            if attempt.policy.unknown_commit == UnknownCommit::Fail && !attempt.policy.read_only =>
        {
            0
        }
        _ => attempt.policy.retries,
    };
    attempt.number <= retries
}

/// A committed transaction is retried if the function says that its body may be applied twice. If the function looks
/// outcomes up, it finds first that the transaction is not committed, and then that it is.
fn commit_lost_once(attempt: &Attempt<'_>) -> Option<Fault> {
    let looks_up = !attempt.policy.read_only
        && matches!(attempt.policy.unknown_commit, UnknownCommit::Resolve | UnknownCommit::Token);
    let fault = match (attempt.number, looks_up) {
        (1, _) => Fault::CommitUnknown { committed: !looks_up },
        // It needs no retry.
        (2, true) => return Some(Fault::CommitUnknown { committed: true }),
        _ => return None,
    };
    allows(attempt, fault).then_some(fault)
}

/// Random faults in the first two attempts of each call. They depend on the seed, and on the calls that the thread has made
/// before. A test has a thread of its own, so it meets the same faults again, whatever runs beside it.
#[derive(Debug)]
struct Chaos {
    seed: u64,
    /// The attempts of each function on each thread.
    drawn: Mutex<BTreeMap<(String, &'static str), u64>>,
}

impl Chaos {
    /// Every other attempt has a fault, half of these at one of the first four statements if it can come there.
    fn fault_of(&self, attempt: &Attempt<'_>) -> Option<PlannedFault> {
        if attempt.number > 2 {
            return None;
        }
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let random = self.draw(thread, attempt.function);
        let possible: Vec<Fault> = Fault::FAILURES.into_iter().filter(|fault| allows(attempt, *fault)).collect();
        let index = usize::try_from(random >> 8).unwrap_or_default().checked_rem(possible.len())?;
        let fault = possible[index];
        let place = match random >> 1 & 3 {
            0 => Place::Begin,
            1 => Place::Commit,
            _ => Place::Statement(1 + (random >> 3 & 3) as u32),
        };
        let place = if fault.fits(place) { place } else { fault.default_place() };
        (random & 1 != 0).then_some(PlannedFault { fault, place })
    }

    fn draw(&self, thread: String, function: &'static str) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed, 0);
        (&thread, function).hash(&mut hasher);
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let count = drawn.entry((thread, function)).or_default();
        *count += 1;
        count.hash(&mut hasher);
        std::hash::Hasher::finish(&hasher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    const UNPOOLED: Attempt<'static> =
        Attempt { function: "f", number: 1, policy: &Policy::DEFAULT, is_pooled: false, is_savepoint: false };
    const FIRST: Attempt<'static> = Attempt { is_pooled: true, ..UNPOOLED };

    fn faults(value: &str, attempts: &[Attempt<'_>]) -> Vec<Option<Fault>> {
        let faults = Faults::parse(value).expect(value);
        attempts.iter().map(|attempt| faults.fault_of(attempt).map(|planned| planned.fault)).collect()
    }

    #[test]
    fn only_known_values_are_read() {
        for value in ["conflict-once", "commit-lost-once", "every-third", "chaos:0"] {
            assert!(Faults::parse(value).is_some());
        }
        for value in ["conflict_once", "chaos", "chaos:", "chaos:x", "chaos:-1", "1"] {
            assert!(Faults::parse(value).is_none(), "{value}");
        }
    }

    #[test]
    fn a_conflict_comes_once_if_it_is_retried() {
        let conflict = Some(Fault::SerializationFailure);
        let never = Policy { deadlock_retries: Some(0), ..Policy::DEFAULT };
        let attempts = [FIRST, Attempt { number: 2, ..FIRST }, UNPOOLED, Attempt { policy: &never, ..FIRST }];
        assert_eq!(faults("conflict-once", &attempts), [conflict, None, conflict, None]);
    }

    #[test]
    fn every_third_attempt_counts_those_that_can_fail() {
        let never = Policy { deadlock_retries: Some(0), ..Policy::DEFAULT };
        let attempts = [FIRST, FIRST, Attempt { policy: &never, ..FIRST }, FIRST, FIRST, FIRST, FIRST];
        let found: Vec<bool> = faults("every-third", &attempts).iter().map(Option::is_some).collect();
        assert_eq!(found, [false, false, false, true, false, false, true]);
    }

    #[test]
    fn a_commit_is_lost_if_the_function_retries_it_or_looks_it_up() {
        const fn policy(unknown_commit: UnknownCommit) -> Policy {
            Policy { unknown_commit, ..Policy::DEFAULT }
        }
        let [fail, retry, resolve] = [UnknownCommit::Fail, UnknownCommit::Retry, UnknownCommit::Resolve].map(policy);
        let read_only = Policy { read_only: true, ..fail };
        let of = |policy| {
            let [first, second] = [1, 2].map(|number| Attempt { number, policy, ..FIRST });
            let unpooled = Attempt { policy, ..UNPOOLED };
            faults("commit-lost-once", &[first, second, unpooled])
        };
        let unknown = |committed| Some(Fault::CommitUnknown { committed });
        assert_eq!(of(&fail), [None, None, None]);
        assert_eq!(of(&read_only), [unknown(true), None, None]);
        assert_eq!(of(&retry), [unknown(true), None, None]);
        assert_eq!(of(&resolve), [unknown(false), unknown(true), None]);
    }

    #[test]
    fn chaos_repeats_itself_and_knows_all_faults() {
        let policy = Policy { unknown_commit: UnknownCommit::Retry, ..Policy::DEFAULT };
        let attempts: Vec<_> = (0..400).map(|n| Attempt { number: n % 3 + 1, policy: &policy, ..FIRST }).collect();
        let found = faults("chaos:7", &attempts);
        assert_eq!(found, faults("chaos:7", &attempts));
        assert_ne!(found, faults("chaos:8", &attempts));
        let kinds: std::collections::BTreeSet<Fault> = found.iter().flatten().copied().collect();
        assert_eq!(kinds.len(), Fault::FAILURES.len());
        let share = found.iter().filter(|fault| fault.is_some()).count();
        assert!((80..190).contains(&share), "a half of two thirds: {share}");
        assert!(found.iter().skip(2).step_by(3).all(Option::is_none), "the third attempts");
    }
}
