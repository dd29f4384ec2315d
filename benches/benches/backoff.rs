//! What it takes to choose the delay before a retry.

// The module's unit tests come along without being run.
#![allow(dead_code, unused_imports)]

// The runtime's module as it is, in a crate of our own: it is private there.
#[path = "../../retry-runtime/src/backoff.rs"]
mod backoff;
mod policy {
    pub(crate) use retry_runtime::{Jitter, Policy};
}

use std::time::Duration;

use divan::black_box;

use crate::backoff::Schedule;
use crate::policy::{Jitter, Policy};

fn main() {
    divan::main();
}

#[divan::bench(args = [Jitter::Full, Jitter::Equal, Jitter::None])]
fn delay(jitter: Jitter) -> Duration {
    let policy = Policy { jitter, ..Policy::DEFAULT };
    backoff::delay(black_box(&policy), Schedule::Conflict, black_box(3), black_box(5), &mut rand::rng())
}
