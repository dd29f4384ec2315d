//! The model: processes that do not know of each other, and one database with a queue.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::policy::Process;

/// Transactions per second that the database can do.
const CAPACITY: f64 = 1_000.0;
/// After this time a caller gives up an attempt.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The database refuses attempts that would wait for longer than this, as if it had no connection left.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// How long a refusal takes.
const REFUSAL: Duration = Duration::from_millis(1);
/// A call makes at most this many retries.
const MAX_RETRIES: u32 = 3;
/// The upper bound of the first random delay. It doubles with each retry.
const DELAY: Duration = Duration::from_millis(50);

/// When the trouble begins, and when the simulation ends, in seconds.
const TROUBLE: usize = 20;
const END: usize = 120;
/// The fleet has recovered if this share of the calls succeeds for so many seconds in a row.
const HEALTHY: (f64, usize) = (0.95, 5);

/// A fleet, and what happens to its database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) processes: usize,
    /// Calls per second, relative to the capacity.
    pub(crate) load: f64,
    /// The capacity that is left during the trouble.
    pub(crate) capacity_left: f64,
    /// How long the trouble lasts, in seconds.
    pub(crate) seconds: usize,
}

impl Scenario {
    fn capacity(&self, now: Duration) -> f64 {
        let trouble = secs(TROUBLE)..secs(TROUBLE + self.seconds);
        if trouble.contains(&now) { CAPACITY * self.capacity_left } else { CAPACITY }
    }

    /// The calls for which there is no capacity during the trouble, as a share of all calls from the trouble to the end.
    pub(crate) fn lacking(&self) -> f64 {
        (1.0 - self.capacity_left / self.load) * self.seconds as f64 / (END - TROUBLE) as f64
    }
}

/// What the database does with work that its caller gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// It goes on.
    GoesOn,
    /// It ends when the caller gives up, as with `statement_timeout`. What is done until then is wasted.
    Ends,
    /// It never begins if it would not be done in time. No server can know that.
    NeverBegins,
}

impl Expired {
    pub(crate) const ALL: [Self; 3] = [Self::GoesOn, Self::Ends, Self::NeverBegins];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GoesOn => "goes on",
            Self::Ends => "ends",
            Self::NeverBegins => "never begins",
        }
    }
}

/// What a run has shown.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The most attempts per second that reached the database, relative to the calls per second.
    pub(crate) peak_load: f64,
    /// Seconds from the end of the trouble until the fleet has recovered.
    pub(crate) recovery: Option<usize>,
    /// The share of the calls that failed, from the trouble to the end.
    pub(crate) lost: f64,
    /// The share of the calls that succeeded, by the second of their arrival, counted from the trouble.
    pub(crate) success: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    process: usize,
    arrival: Duration,
    retries: u32,
    /// When its latest attempt began.
    began: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Retry(Call),
    Success(Call),
    Failure(Call),
}

pub(crate) struct Simulation {
    scenario: Scenario,
    expired: Expired,
    processes: Vec<Process>,
    random: StdRng,
    /// The earliest is the greatest. Events of the same time keep their order by a number.
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    scheduled: u64,
    /// When the database will have done all work that it has.
    free_at: Duration,
    /// By second: calls that arrived, those of them that succeeded, attempts.
    calls: Vec<f64>,
    successes: Vec<f64>,
    attempts: Vec<f64>,
}

impl Simulation {
    pub(crate) fn run(scenario: Scenario, process: &Process, expired: Expired, seed: u64) -> Outcome {
        let mut simulation = Self {
            scenario,
            expired,
            processes: vec![process.clone(); scenario.processes],
            random: StdRng::seed_from_u64(seed),
            events: BinaryHeap::new(),
            scheduled: 0,
            free_at: Duration::ZERO,
            calls: vec![0.0; END],
            successes: vec![0.0; END],
            attempts: vec![0.0; END],
        };
        simulation.at(Duration::ZERO, Event::Arrival);
        while let Some(Reverse((now, _, event))) = simulation.events.pop() {
            // Calls that arrived before the end may still succeed.
            simulation.handle(now, event);
        }
        simulation.outcome()
    }

    fn handle(&mut self, now: Duration, event: Event) {
        match event {
            Event::Arrival if now < secs(END) => self.arrival(now),
            Event::Arrival => {}
            Event::Retry(call) => {
                if self.processes[call.process].admits_attempt(now) {
                    self.attempt(now, call);
                }
            }
            Event::Success(call) => {
                self.processes[call.process].ended(now, call.began, true);
                self.successes[second(call.arrival)] += 1.0;
            }
            Event::Failure(call) => self.failure(now, call),
        }
    }

    fn arrival(&mut self, now: Duration) {
        let gap = -(1.0 - self.random.random::<f64>()).ln() / (self.scenario.load * CAPACITY);
        self.at(now + Duration::from_secs_f64(gap), Event::Arrival);
        self.calls[second(now)] += 1.0;
        let process = self.random.random_range(0..self.processes.len());
        if self.processes[process].admits_call(now) {
            self.attempt(now, Call { process, arrival: now, retries: 0, began: now });
        }
    }

    /// The database does the work in the order of arrival, so the attempt is done once all earlier work is done.
    fn attempt(&mut self, now: Duration, call: Call) {
        let call = Call { began: now, ..call };
        if let Some(attempts) = self.attempts.get_mut(second(now)) {
            *attempts += 1.0;
        }
        let capacity = self.scenario.capacity(now);
        if capacity == 0.0 {
            return self.at(now + REFUSAL, Event::Failure(call));
        }
        let begins = self.free_at.max(now);
        let done = begins + Duration::from_secs_f64(1.0 / capacity);
        let gives_up = now + TIMEOUT;
        if done > now + MAX_WAIT {
            return self.at(now + REFUSAL, Event::Failure(call));
        }
        if done <= gives_up {
            self.free_at = done;
            return self.at(done, Event::Success(call));
        }
        self.free_at = match self.expired {
            Expired::GoesOn => done,
            Expired::Ends => self.free_at.max(gives_up),
            Expired::NeverBegins => self.free_at,
        };
        self.at(gives_up, Event::Failure(call));
    }

    fn failure(&mut self, now: Duration, call: Call) {
        let process = &mut self.processes[call.process];
        process.ended(now, call.began, false);
        if call.retries < MAX_RETRIES && process.admits_retry(now) {
            let delay = DELAY.mul_f64(f64::from(1 << call.retries) * self.random.random::<f64>());
            self.at(now + delay, Event::Retry(Call { retries: call.retries + 1, ..call }));
        }
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((time, self.scheduled, event)));
    }

    fn outcome(&self) -> Outcome {
        let trouble_ends = TROUBLE + self.scenario.seconds;
        let peak = self.attempts[TROUBLE..trouble_ends + 5].iter().copied().fold(0.0, f64::max);
        let success: Vec<f64> =
            self.successes.iter().zip(&self.calls).skip(TROUBLE).map(|(successes, calls)| successes / calls).collect();
        let (share, seconds) = HEALTHY;
        let after = success[self.scenario.seconds..].windows(seconds);
        let recovery = after.map(|shares| shares.iter().all(|one| *one >= share)).position(|is_healthy| is_healthy);
        let sum = |counts: &[f64]| counts[TROUBLE..].iter().sum::<f64>();
        let lost = 1.0 - sum(&self.successes) / sum(&self.calls);
        Outcome { peak_load: peak / (self.scenario.load * CAPACITY), recovery, lost, success }
    }
}

fn secs(seconds: usize) -> Duration {
    Duration::from_secs(seconds as u64)
}

fn second(time: Duration) -> usize {
    usize::try_from(time.as_secs()).expect("a short time")
}
