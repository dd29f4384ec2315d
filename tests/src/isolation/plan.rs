//! Plans of transactions, chosen at random from the seed and the transaction's number.

use rand::RngExt;
use rand::rngs::StdRng;

use super::Level;
use super::functions::{Function, functions};
use crate::soak::plan::{Patience, patience, rng_of};

/// The number of keys that are in use at the same time.
const KEYS: i32 = 40;
/// A key retires after this many transactions, and a new one takes its place. So the lists stay short.
const TRANSACTIONS_PER_KEY: i64 = 16;

/// What one transaction does.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) function: &'static Function,
    pub(crate) steps: Vec<Step>,
    /// Whether its connection goes through the proxy, which cuts connections.
    pub(crate) proxied: bool,
    /// When the caller drops the call.
    pub(crate) patience: Patience,
    /// When the body drops a nested call, if the function makes one that it drops.
    pub(crate) inner_patience: Patience,
    /// Whether the body registers hooks.
    pub(crate) hooks: bool,
    /// Whether the body returns its own error at its end.
    pub(crate) declines: bool,
}

/// A micro-operation on the list of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Append(i32),
    Read(i32),
}

impl Plan {
    /// The plan of a transaction. The same seed and number give the same plan.
    pub(crate) fn of(level: Level, seed: u64, number: i64) -> Self {
        let rng = &mut rng_of(seed, number);
        let functions = functions(level);
        Self {
            function: &functions[rng.random_range(0..functions.len())],
            steps: steps(rng, number),
            proxied: rng.random_bool(0.2),
            patience: if rng.random_bool(0.04) { patience(rng, 5_000, 40) } else { Patience::Endless },
            inner_patience: patience(rng, 2_000, 10),
            hooks: rng.random_bool(0.5),
            declines: rng.random_bool(0.03),
        }
    }

    /// The key of the first step.
    pub(crate) fn first_key(&self) -> i32 {
        match self.steps[0] {
            Step::Append(key) | Step::Read(key) => key,
        }
    }
}

fn steps(rng: &mut StdRng, number: i64) -> Vec<Step> {
    // Mostly short.
    let most = rng.random_range(1..=5);
    let mut steps: Vec<Step> = Vec::new();
    for _ in 0..rng.random_range(1..=most) {
        steps.push(match steps.last() {
            // A body that writes what it has read: the update is lost if the read is stale.
            Some(Step::Read(key)) if rng.random_bool(0.3) => Step::Append(*key),
            _ => step(rng, number),
        });
    }
    steps
}

fn step(rng: &mut StdRng, number: i64) -> Step {
    let key = oldest_key(number) + rng.random_range(0..KEYS);
    if rng.random_bool(0.5) { Step::Append(key) } else { Step::Read(key) }
}

fn oldest_key(number: i64) -> i32 {
    i32::try_from(number / TRANSACTIONS_PER_KEY).expect("few keys")
}

/// The number of keys that this many transactions use.
pub(crate) fn keys(transactions: i64) -> i32 {
    oldest_key(transactions) + KEYS
}
