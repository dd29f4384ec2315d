//! The results of one scenario, as a table and as lines of CSV.

use comfy_table::Table;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::load::{Load, Outcome};
use super::scenario::Scenario;
use super::strategy::Strategy;
use crate::environment::Environment;
use crate::summary::{Spread, milliseconds};

/// One run, as a line of CSV. Times are in milliseconds.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Line {
    pub(crate) latency: f64,
    pub(crate) disk: f64,
    pub(crate) isolation: String,
    pub(crate) keys: i32,
    pub(crate) callers: usize,
    #[serde(default = "one")]
    pub(crate) processes: usize,
    /// Calls per second of an open loop.
    pub(crate) rate: Option<f64>,
    pub(crate) round: usize,
    pub(crate) strategy: String,
    /// Commits per second.
    pub(crate) goodput: f64,
    /// The goodput, relative to the baseline in the same round.
    pub(crate) ratio: Option<f64>,
    pub(crate) attempts: u64,
    pub(crate) commits: u64,
    pub(crate) give_ups: u64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

/// Files of older releases do not state the processes.
fn one() -> usize {
    1
}

impl Line {
    /// Identifies the scenario: its runs share one chart.
    pub(crate) fn title(&self) -> String {
        let Self { isolation, keys, callers, latency, disk, .. } = self;
        let processes = if self.processes > 1 { format!(" in {} processes", self.processes) } else { String::new() };
        let arrivals = self.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{rate} calls per s"));
        format!(
            "{isolation}, {keys} keys, {callers} callers{processes}, {arrivals}, latency {latency} ms, disk {disk} ms"
        )
    }
}

/// The runs of one scenario: one per strategy in each round, in the order of `strategies`.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) environment: Environment,
    pub(crate) scenario: Scenario,
    pub(crate) load: Load,
    pub(crate) strategies: &'a [Strategy],
    pub(crate) rounds: Vec<Vec<Outcome>>,
}

impl Report<'_> {
    /// Commits per second.
    fn goodput(&self, outcome: &Outcome) -> f64 {
        outcome.commits as f64 / self.load.length.as_secs_f64()
    }

    /// The goodput relative to the baseline in the same round, unless that is zero.
    fn ratio(&self, round: &[Outcome], strategy: usize) -> Option<f64> {
        let baseline = self.strategies.iter().position(|&strategy| strategy == Strategy::BASELINE)?;
        let goodput = self.goodput(&round[baseline]);
        (goodput > 0.0).then(|| self.goodput(&round[strategy]) / goodput)
    }

    /// One row for each strategy.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header([
            "strategy",
            "commits per second",
            "relative to immediate",
            "attempts per commit",
            "give-ups",
            "p99 ms",
            "p99.9 ms",
        ]);
        for (index, strategy) in self.strategies.iter().enumerate() {
            table.add_row(self.row(index, strategy.name()));
        }
        table
    }

    fn row(&self, index: usize, name: String) -> Vec<String> {
        let runs: Vec<&Outcome> = self.rounds.iter().map(|round| &round[index]).collect();
        let sum = |count: fn(&Outcome) -> u64| runs.iter().map(|run| count(run)).sum::<u64>();
        let goodput: Vec<f64> = runs.iter().map(|run| self.goodput(run)).collect();
        let ratios: Vec<f64> = self.rounds.iter().filter_map(|round| self.ratio(round, index)).collect();
        let mut latencies = Histogram::<u64>::new(3).expect("3 is a valid precision");
        for run in &runs {
            latencies.add(&run.latencies).expect("of equal precision, and resizable");
        }
        let mut row = vec![name, format!("{:.0}", Spread::of(&goodput)), format!("{:.2}", Spread::of(&ratios))];
        row.push(match sum(|run| run.commits) {
            0 => "-".to_owned(),
            commits => format!("{:.2}", sum(|run| run.attempts) as f64 / commits as f64),
        });
        row.push(sum(|run| run.give_ups).to_string());
        row.extend([0.99, 0.999].map(|quantile| milliseconds(latencies.value_at_quantile(quantile) as f64)));
        row
    }

    /// One line for each run.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Line> {
        self.rounds.iter().enumerate().flat_map(move |(round, outcomes)| {
            outcomes.iter().enumerate().map(move |(index, outcome)| self.line(round, index, outcome))
        })
    }

    fn line(&self, round: usize, index: usize, outcome: &Outcome) -> Line {
        let quantile = |quantile| outcome.latencies.value_at_quantile(quantile) as f64 / 1e3;
        Line {
            latency: self.environment.latency.as_secs_f64() * 1e3,
            disk: self.environment.disk.as_secs_f64() * 1e3,
            isolation: self.scenario.isolation.to_string(),
            keys: self.scenario.keys,
            callers: self.scenario.callers,
            processes: self.load.processes,
            rate: self.load.rate,
            round,
            strategy: self.strategies[index].name(),
            goodput: self.goodput(outcome),
            ratio: self.ratio(&self.rounds[round], index),
            attempts: outcome.attempts,
            commits: outcome.commits,
            give_ups: outcome.give_ups,
            p99: quantile(0.99),
            p999: quantile(0.999),
        }
    }
}
