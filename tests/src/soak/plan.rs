//! What a call is to do: all of it drawn from the seed and the call's number.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::functions::{FUNCTIONS, Function};
use super::sources::NAMES;

/// The rows that calls fight for.
pub(crate) const HOT_ROWS: i32 = 12;

/// What one call does.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) function: &'static Function,
    /// The number of its source.
    pub(crate) source: usize,
    /// How long the caller waits for it.
    pub(crate) patience: Patience,
    /// Whether it gives up on locks at once.
    pub(crate) lock_timeout: bool,
    pub(crate) steps: Vec<Step>,
    pub(crate) ending: Ending,
    /// Whether its own errors are texts, without a source.
    pub(crate) as_text: bool,
    /// How long its COMMIT takes, and whether it then fails.
    pub(crate) commit_nap_ms: i32,
    pub(crate) commit_fails: bool,
}

/// A part of a body.
#[derive(Debug)]
pub(crate) enum Step {
    /// Updates a hot row, and says so in the ledger.
    Move {
        row: i32,
        delta: i64,
    },
    /// Reads all hot rows, which conflicts under SERIALIZABLE.
    ReadAll,
    Pause(Duration),
    /// A statement fails, and the body goes on.
    Swallow,
    /// The same behind the transaction's back.
    SwallowUnwatched,
    /// Rows are left unread, of which a later one may fail.
    LeaveRows {
        fails: bool,
    },
    /// A statement is given up while it runs.
    DropStatement,
    Nested(Nested),
}

/// A nested call. The body goes on, whatever becomes of it.
#[derive(Debug)]
pub(crate) struct Nested {
    pub(crate) steps: Vec<Step>,
    pub(crate) ending: Ending,
    pub(crate) patience: Patience,
}

/// How a body ends where all its steps succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Return,
    /// An error of its own.
    Decline,
    /// A statement that fails.
    Fail,
    /// It sleeps past the deadline without yielding, and returns `Ok`.
    Overrun,
    /// It waits for the deadline.
    Hang,
}

/// When a future is dropped before it is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    Endless,
    Time(Duration),
    /// After so many polls: at once, or when it is woken next.
    Polls {
        count: u32,
        at_once: bool,
    },
}

impl Plan {
    /// The same for the same seed and number.
    pub(crate) fn of(seed: u64, call: i64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ call.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let rng = &mut rng;
        let function = &FUNCTIONS[rng.random_range(0..4)][rng.random_range(0..12)];
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

fn patience(rng: &mut StdRng, micros: u64, polls: u32) -> Patience {
    if rng.random_bool(0.5) {
        Patience::Time(Duration::from_micros(rng.random_range(0..micros)))
    } else {
        Patience::Polls { count: rng.random_range(0..polls), at_once: rng.random_bool(0.5) }
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
