//! Plans of calls, chosen at random from the seed and the call's number.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::functions::{FUNCTIONS, Function, PER_MODULE};
use super::sources::NAMES;

/// The number of rows that all calls update.
pub(crate) const HOT_ROWS: i32 = 12;

/// What one call does.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) function: &'static Function,
    /// The number of its source.
    pub(crate) source: usize,
    /// When the caller drops the call.
    pub(crate) patience: Patience,
    /// Whether the body sets a short `lock_timeout`.
    pub(crate) lock_timeout: bool,
    pub(crate) steps: Vec<Step>,
    pub(crate) ending: Ending,
    /// Whether the body returns errors as text, without a source.
    pub(crate) as_text: bool,
    /// How long `COMMIT` takes, and whether it then fails.
    pub(crate) commit_nap_ms: i32,
    pub(crate) commit_fails: bool,
}

/// A step of a body.
#[derive(Debug)]
pub(crate) enum Step {
    /// Updates a hot row, and records the change in the ledger.
    Move {
        row: i32,
        delta: i64,
    },
    /// Reads all hot rows, which causes conflicts under SERIALIZABLE.
    ReadAll,
    Pause(Duration),
    /// A statement fails, and the body ignores the error.
    Swallow,
    /// The same on the driver's own client, which the transaction does not watch.
    SwallowUnwatched,
    /// Leaves rows of a result unread. A later row may fail.
    LeaveRows {
        fails: bool,
    },
    /// Drops a statement while it runs.
    DropStatement,
    Nested(Nested),
}

/// A nested call. The body continues, whether it succeeds or not.
#[derive(Debug)]
pub(crate) struct Nested {
    pub(crate) steps: Vec<Step>,
    pub(crate) ending: Ending,
    pub(crate) patience: Patience,
}

/// How a body ends if all its steps succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It returns `Ok`.
    Return,
    /// It returns its own error.
    Decline,
    /// It returns the error of a failed statement.
    Fail,
    /// It blocks its thread past the deadline, and returns `Ok`.
    Overrun,
    /// It never returns, so the deadline ends it.
    Hang,
}

/// When a future is dropped before it completes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    Endless,
    Time(Duration),
    /// After this many polls: immediately, or when it is next woken.
    Polls {
        count: u32,
        immediately: bool,
    },
}

/// The random choices of this call. The same seed and number give the same choices.
pub(crate) fn rng_of(seed: u64, number: i64) -> StdRng {
    StdRng::seed_from_u64(seed ^ number.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

impl Plan {
    /// The plan of a call. The same seed and number give the same plan.
    pub(crate) fn of(seed: u64, call: i64) -> Self {
        let mut rng = rng_of(seed, call);
        let rng = &mut rng;
        let function = &FUNCTIONS[rng.random_range(0..4)][rng.random_range(0..PER_MODULE)];
        let source = rng.random_range(0..NAMES.len());
        let patience = if rng.random_bool(0.08) { patience(rng, 60_000, 40) } else { Patience::Endless };
        let steps = steps(rng, 0);
        Self {
            function,
            source,
            patience,
            lock_timeout: rng.random_bool(0.1),
            steps,
            ending: ending(rng, function.deadline.is_some()),
            as_text: rng.random_bool(0.1),
            commit_nap_ms: if rng.random_bool(0.06) { rng.random_range(1..=50) } else { 0 },
            commit_fails: rng.random_bool(0.03),
        }
    }
}

fn ending(rng: &mut StdRng, has_deadline: bool) -> Ending {
    match rng.random_range(0..1_000) {
        0..40 => Ending::Decline,
        40..60 => Ending::Fail,
        60..68 if has_deadline => Ending::Overrun,
        68..74 if has_deadline => Ending::Hang,
        _ => Ending::Return,
    }
}

/// A moment at random: a time of up to `micros`, or a number of polls below `polls`.
pub(crate) fn patience(rng: &mut StdRng, micros: u64, polls: u32) -> Patience {
    if rng.random_bool(0.5) {
        Patience::Time(Duration::from_micros(rng.random_range(0..micros)))
    } else {
        Patience::Polls { count: rng.random_range(0..polls), immediately: rng.random_bool(0.5) }
    }
}

fn steps(rng: &mut StdRng, depth: u32) -> Vec<Step> {
    (0..rng.random_range(0..=3)).map(|_| step(rng, depth)).collect()
}

fn step(rng: &mut StdRng, depth: u32) -> Step {
    match rng.random_range(0..1_000) {
        0..450 => Step::Move { row: rng.random_range(1..=HOT_ROWS), delta: rng.random_range(-99..=99) },
        450..560 => Step::ReadAll,
        560..660 => Step::Pause(Duration::from_micros(rng.random_range(0..4_000))),
        660..672 => Step::Swallow,
        672..680 => Step::SwallowUnwatched,
        680..710 => Step::LeaveRows { fails: rng.random_bool(0.3) },
        710..740 => Step::DropStatement,
        _ if depth < 2 => Step::Nested(nested(rng, depth + 1)),
        _ => Step::Move { row: rng.random_range(1..=HOT_ROWS), delta: 1 },
    }
}

fn nested(rng: &mut StdRng, depth: u32) -> Nested {
    let steps = steps(rng, depth);
    let (ending, patience) = match rng.random_range(0..10) {
        0..5 => (Ending::Return, Patience::Endless),
        5 => (Ending::Decline, Patience::Endless),
        6 => (Ending::Fail, Patience::Endless),
        7 => (Ending::Decline, patience(rng, 4_000, 16)),
        _ => (Ending::Return, patience(rng, 4_000, 16)),
    };
    Nested { steps, ending, patience }
}
