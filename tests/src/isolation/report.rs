//! The report of an isolation run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Options;
use crate::soak::report::Counts;

/// The result of a run. Its text is a short table.
#[derive(Debug)]
pub struct Report {
    options: Options,
    counts: BTreeMap<&'static str, usize>,
    faults: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
    anomalies: BTreeMap<String, usize>,
    allowed: BTreeMap<String, usize>,
    elapsed: Duration,
    pub(crate) checked_in: Duration,
}

impl Report {
    pub(crate) fn new(
        options: &Options,
        counts: BTreeMap<&'static str, usize>,
        faults: BTreeMap<&'static str, usize>,
        wrong: Vec<String>,
        elapsed: Duration,
    ) -> Self {
        let (anomalies, allowed, checked_in) = Default::default();
        Self { options: *options, counts, faults, wrong, anomalies, allowed, elapsed, checked_in }
    }

    /// Adds anomalies that the isolation level forbids.
    pub(crate) fn add(&mut self, anomalies: BTreeMap<String, Vec<String>>) {
        for (kind, found) in anomalies {
            self.anomalies.insert(kind.clone(), found.len());
            self.wrong.extend(found.into_iter().map(|text| format!("{kind}: {text}")));
        }
    }

    /// Adds anomalies that the isolation level allows.
    pub(crate) fn allow(&mut self, anomalies: BTreeMap<String, Vec<String>>) {
        self.allowed = anomalies.into_iter().map(|(kind, found)| (kind, found.len())).collect();
    }

    /// Everything that is wrong, in detail: anomalies that the isolation level forbids, and wrong results of calls.
    #[must_use]
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }

    /// The types of the anomalies that the isolation level allows.
    pub fn allowed(&self) -> impl Iterator<Item = &str> {
        self.allowed.keys().map(String::as_str)
    }

    /// How often something happened: the outcomes `ok`, `definite error`, `unknown` and `dropped`, and also `retry`,
    /// `swallowed error` and `append undone by a savepoint`.
    #[must_use]
    pub fn count(&self, what: &str) -> usize {
        self.counts.get(what).copied().unwrap_or_default()
    }

    /// The number of faults of all kinds.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.faults.values().sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { level, transactions, seed, .. } = self.options;
        write!(
            f,
            "{transactions:>9} transactions in {:.0?}, checked in {:.1?}, {level:?}, seed {seed}",
            self.elapsed, self.checked_in
        )?;
        writeln!(f, "{}", Counts(&self.counts))?;
        writeln!(f, "{:>9} faults{}", self.faults(), Counts(&self.faults))?;
        for (kind, count) in &self.allowed {
            writeln!(f, "{count:>9} allowed: {kind}")?;
        }
        write!(f, "{:>9} wrong{}", self.wrong.len(), Counts(&self.anomalies))
    }
}
