//! The circuit breaker of a pool: when calls are refused, and which call tries again.

use std::sync::PoisonError;
use std::time::Duration;

use crate::sync::{Instant, Mutex, MutexGuard};

/// How long the circuit stays open, unless the user sets another time.
pub(crate) const OPEN_FOR: Duration = Duration::from_secs(5);
/// A longer time would be of no use, and the sum of it and the current time could overflow.
const MAX_OPEN_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// The results of so many seconds decide.
const WINDOW: usize = 10;
/// Fewer results say nothing.
const MIN_RESULTS: u64 = 5;

/// What the result of an attempt says of the server and the connection to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// The server has answered, whatever the answer was.
    Answered,
    /// A transient failure, or no answer before the deadline.
    Failed,
}

/// What a result has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Opened,
    Closed,
}

/// A circuit breaker. Clones of a pool share it.
#[derive(Debug)]
pub(crate) struct Circuit(Mutex<State>);

impl Circuit {
    pub(crate) fn new(open_for: Duration) -> Self {
        Self(Mutex::new(State::new(open_for.min(MAX_OPEN_FOR), Instant::now())))
    }

    /// Admits an attempt, or says how long to wait.
    pub(crate) fn admit(&self) -> Result<Admission<'_>, Duration> {
        let pass = self.lock().admit(Instant::now())?;
        Ok(Admission { circuit: self, pass })
    }

    /// Whether it would refuse an attempt after this delay.
    pub(crate) fn refuses_after(&self, delay: Duration) -> bool {
        Instant::now().checked_add(delay).is_some_and(|time| self.lock().refuses_at(time))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that the circuit has admitted. If it is dropped without a result and was the trial, another may be the
/// trial.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    circuit: &'a Circuit,
    pass: Pass,
}

impl Admission<'_> {
    /// The attempt has ended.
    pub(crate) fn end(self, health: Health) -> Option<Change> {
        self.circuit.lock().record(self.pass, health, Instant::now())
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.circuit.lock().release(self.pass, Instant::now());
    }
}

#[derive(Clone, Copy, Debug)]
struct Pass {
    /// How often the circuit had opened.
    openings: u32,
    /// The number of the trial, if it is one.
    trial: Option<u32>,
}

#[derive(Debug)]
struct State {
    open_for: Duration,
    /// If the circuit is open: calls are refused until then. During a trial: until another call may be the trial, in
    /// case this one never ends.
    open_until: Option<Instant>,
    openings: u32,
    /// How many trials have begun. The latest has this number.
    trials: u32,
    window: Window,
}

impl State {
    fn new(open_for: Duration, now: Instant) -> Self {
        let window = Window { since: now, seconds: [Second::default(); WINDOW] };
        Self { open_for, open_until: None, openings: 0, trials: 0, window }
    }

    fn refuses_at(&self, time: Instant) -> bool {
        self.open_until.is_some_and(|until| time < until)
    }

    fn admit(&mut self, now: Instant) -> Result<Pass, Duration> {
        let Some(until) = self.open_until else { return Ok(Pass { openings: self.openings, trial: None }) };
        if now < until {
            return Err(until - now);
        }
        self.open_until = Some(now + self.open_for);
        self.trials = self.trials.wrapping_add(1);
        Ok(Pass { openings: self.openings, trial: Some(self.trials) })
    }

    /// Results of attempts that were admitted before the circuit last opened do not count.
    fn record(&mut self, pass: Pass, health: Health, now: Instant) -> Option<Change> {
        if pass.openings != self.openings {
            return None;
        }
        match (self.open_until, health) {
            (None, _) => {
                let is_bad = self.window.add(health, now);
                if is_bad && health == Health::Failed {
                    return Some(self.open(now));
                }
                None
            }
            // Of a trial, however late.
            (Some(_), Health::Failed) => Some(self.open(now)),
            (Some(_), Health::Answered) => {
                self.open_until = None;
                Some(Change::Closed)
            }
        }
    }

    fn open(&mut self, now: Instant) -> Change {
        self.open_until = Some(now + self.open_for);
        self.openings = self.openings.wrapping_add(1);
        self.window.seconds = [Second::default(); WINDOW];
        Change::Opened
    }

    /// A trial without a result leaves its place to the next call.
    fn release(&mut self, pass: Pass, now: Instant) {
        let is_trial = pass.openings == self.openings && pass.trial == Some(self.trials);
        if is_trial && self.open_until.is_some() {
            self.open_until = Some(now);
        }
    }
}

/// The results of the last seconds, counted per second.
#[derive(Debug)]
struct Window {
    since: Instant,
    seconds: [Second; WINDOW],
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u64,
    results: u64,
    failures: u64,
}

impl Window {
    /// Adds a result. Returns whether at least half of enough results have failed.
    fn add(&mut self, health: Health, now: Instant) -> bool {
        let number = now.saturating_duration_since(self.since).as_secs();
        let (oldest, mut results, mut failures) = (number.saturating_sub(WINDOW as u64 - 1), 1, 0);
        failures += u64::from(health == Health::Failed);
        for second in self.seconds.iter().filter(|second| second.number >= oldest) {
            results += second.results;
            failures += second.failures;
        }
        let slot = &mut self.seconds[usize::try_from(number % WINDOW as u64).expect("less than WINDOW")];
        if slot.number != number {
            *slot = Second { number, ..Second::default() };
        }
        slot.results += 1;
        slot.failures += u64::from(health == Health::Failed);
        results >= MIN_RESULTS && failures * 2 >= results
    }
}

#[cfg(all(test, shuttle))]
mod schedules;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What happens to a circuit. A number picks one of the attempts under way.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Wait(u64),
        Begin,
        End(prop::sample::Index, Health),
        Drop(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        let health = prop_oneof![2 => Just(Health::Failed), 1 => Just(Health::Answered)];
        prop_oneof![
            2 => prop_oneof![0..1_500_u64, 4_900..5_100_u64].prop_map(Step::Wait),
            4 => Just(Step::Begin),
            4 => (any::<prop::sample::Index>(), health).prop_map(|(which, health)| Step::End(which, health)),
            1 => any::<prop::sample::Index>().prop_map(Step::Drop),
        ]
    }

    /// The rules, as plainly as possible: every result is kept, and every time is in milliseconds.
    #[derive(Debug)]
    enum Model {
        Closed { era: u32, results: Vec<(u64, Health)> },
        Open { era: u32, until: u64 },
        Trial { era: u32, attempt: usize, until: u64 },
    }

    impl Model {
        fn era(&self) -> u32 {
            match self {
                Self::Closed { era, .. } | Self::Open { era, .. } | Self::Trial { era, .. } => *era,
            }
        }

        fn admits(&mut self, attempt: usize, now: u64) -> Result<u32, u64> {
            match *self {
                Self::Closed { era, .. } => Ok(era),
                Self::Open { until, .. } | Self::Trial { until, .. } if now < until => Err(until - now),
                Self::Open { era, .. } | Self::Trial { era, .. } => {
                    *self = Self::Trial { era, attempt, until: now + 5_000 };
                    Ok(era)
                }
            }
        }

        fn ends(&mut self, era: u32, health: Health, now: u64) -> Option<Change> {
            if era != self.era() {
                return None;
            }
            if let Self::Closed { results, .. } = self {
                results.push((now / 1_000, health));
                let recent: Vec<_> = results.iter().filter(|(second, _)| second + 10 > now / 1_000).collect();
                let failures = recent.iter().filter(|(_, health)| *health == Health::Failed).count();
                if health == Health::Answered || recent.len() < 5 || failures * 2 < recent.len() {
                    return None;
                }
            } else if health == Health::Answered {
                *self = Self::Closed { era, results: Vec::new() };
                return Some(Change::Closed);
            }
            *self = Self::Open { era: era + 1, until: now + 5_000 };
            Some(Change::Opened)
        }

        fn drops(&mut self, gone: usize, now: u64) {
            if let Self::Trial { era, attempt, .. } = *self {
                if attempt == gone {
                    *self = Self::Open { era, until: now };
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_does_what_the_model_does(steps in vec(step(), 1..200)) {
            let start = Instant::now();
            let (mut state, mut model) = (State::new(OPEN_FOR, start), Model::Closed { era: 0, results: Vec::new() });
            let (mut now, mut under_way) = (0, Vec::new());
            for (attempt, step) in steps.into_iter().enumerate() {
                let at = start + Duration::from_millis(now);
                match step {
                    Step::Wait(time) => now += time,
                    Step::Begin => match (state.admit(at), model.admits(attempt, now)) {
                        (Ok(pass), Ok(era)) => under_way.push((attempt, pass, era)),
                        (Err(wait), Err(expected)) => prop_assert_eq!(wait, Duration::from_millis(expected)),
                        different => prop_assert!(false, "{:?}", different),
                    },
                    Step::End(..) | Step::Drop(_) if under_way.is_empty() => {}
                    Step::End(which, health) => {
                        let (_, pass, era) = under_way.swap_remove(which.index(under_way.len()));
                        prop_assert_eq!(state.record(pass, health, at), model.ends(era, health, now));
                        // The guard is dropped after every result.
                        state.release(pass, at);
                    }
                    Step::Drop(which) => {
                        let (gone, pass, _) = under_way.swap_remove(which.index(under_way.len()));
                        state.release(pass, at);
                        model.drops(gone, now);
                    }
                }
            }
        }
    }

    #[test]
    fn half_of_five_results_open_it_and_the_oldest_are_forgotten() {
        let start = Instant::now();
        let mut state = State::new(OPEN_FOR, start);
        let mut result = |health, second| {
            let now = start + Duration::from_secs(second);
            let pass = state.admit(now).expect("it is closed");
            state.record(pass, health, now)
        };
        for _ in 0..3 {
            assert_eq!(result(Health::Answered, 0), None);
        }
        for _ in 0..2 {
            assert_eq!(result(Health::Failed, 1), None, "less than half");
        }
        assert_eq!(result(Health::Answered, 10), None, "of the first ones, only the failures count");
        assert_eq!(result(Health::Failed, 11), None, "too few");
        for _ in 0..2 {
            assert_eq!(result(Health::Answered, 12), None);
        }
        assert_eq!(result(Health::Failed, 13), None, "two of five");
        assert_eq!(result(Health::Failed, 13), Some(Change::Opened), "three of six");
    }
}
