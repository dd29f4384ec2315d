//! The report of a soak test.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write};
use std::time::Duration;

use super::Options;
use super::check::{self, Record, Rows};
use super::faults::Faults;
use super::plan::Plan;
use super::sources::NAMES;

/// The result of a soak test. Its text is a short table.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    calls: usize,
    outcomes: BTreeMap<&'static str, usize>,
    faults: BTreeMap<&'static str, usize>,
    /// How many wrong results there were of each kind.
    kinds: BTreeMap<String, usize>,
    wrong: Vec<String>,
    elapsed: Duration,
}

impl Report {
    pub(crate) fn new(
        options: &Options,
        calls: &[Record],
        ledger: &HashMap<i64, Rows>,
        faults: &Faults,
        mut wrong: Vec<String>,
        elapsed: Duration,
    ) -> Self {
        let mut outcomes = BTreeMap::new();
        let mut kinds = BTreeMap::new();
        let none = Rows::new();
        for call in calls {
            *outcomes.entry(call.outcome.kind()).or_default() += 1;
            let rows = ledger.get(&call.id).unwrap_or(&none);
            let what = check::faults(call, rows);
            if !what.is_empty() {
                let module = call.function.name.split("::").next().unwrap_or_default();
                *kinds.entry(format!("{module}: {}", what.join("; "))).or_default() += 1;
                wrong.push(describe(options.seed, call, rows, faults, &what.join("; ")));
            }
        }
        Self { seed: options.seed, calls: calls.len(), outcomes, faults: faults.counts(), kinds, wrong, elapsed }
    }

    /// The number of calls.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// The number of calls with this outcome: `ok`, `definite error`, `unknown` or `dropped`.
    #[must_use]
    pub fn outcome(&self, outcome: &str) -> usize {
        self.outcomes.get(outcome).copied().unwrap_or_default()
    }

    /// The number of faults of all kinds.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.faults.values().sum()
    }

    /// Everything that is wrong, in detail.
    #[must_use]
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.calls as u128 * 1_000 / self.elapsed.as_millis().max(1);
        write!(f, "{:>9} calls in {:.0?}, {rate} per second, seed {}", self.calls, self.elapsed, self.seed)?;
        writeln!(f, "{}", Counts(&self.outcomes))?;
        write!(f, "{:>9} faults{}", self.faults(), Counts(&self.faults))?;
        write!(f, "\n{:>9} wrong{}", self.wrong.len(), Counts(&self.kinds))
    }
}

/// The rows of a table, each after a line break.
pub(crate) struct Counts<'a, K>(pub(crate) &'a BTreeMap<K, usize>);

impl<K: fmt::Display> fmt::Display for Counts<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(what, count)| write!(f, "\n{count:>9}   {what}"))
    }
}

/// Everything that is known about a call.
fn describe(seed: u64, call: &Record, rows: &Rows, faults: &Faults, what: &str) -> String {
    let plan = Plan::of(seed, call.id);
    let mut text = format!(
        "call {}, {} on {}: {what}\n  result: {}\n  in the ledger: {rows:?}\n  plan: {plan:?}\n  hooks: {:?}",
        call.id, call.function.name, NAMES[plan.source], call.outcome, call.log.hooks
    );
    for (number, attempt) in &call.log.attempts {
        let _ = write!(text, "\n  attempt {number}: {attempt:?}");
    }
    for event in &call.log.events {
        let _ = write!(text, "\n  event after {event}");
    }
    let _ = write!(text, "\n  faults from {:.3?} to {:.3?}, on any connection:", call.began, call.ended);
    for fault in faults.between(call.began, call.ended).iter().take(30) {
        let _ = write!(text, "\n    {fault}");
    }
    text
}
