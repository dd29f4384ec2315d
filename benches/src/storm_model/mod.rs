//! A model of retry storms: what a retry policy does to the load on a database in trouble, and to its recovery.
//!
//! Many processes call one database and do not know of each other. For a few seconds the database has less capacity, or
//! none. The figures say which policies let it recover, not how fast a real server would.

mod policy;
mod simulation;

use std::path::PathBuf;

use comfy_table::Table;
use serde::Serialize;

use self::policy::{Breaker, Process, Retries};
use self::simulation::{Expired, Outcome, Scenario, Simulation};
use crate::charts::lines::{self, Curve};
use crate::summary::{Spread, append_csv};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Runs of each policy, with other random numbers
    #[arg(long, default_value_t = 3)]
    seeds: u64,

    /// Sizes of the fleet
    #[arg(long, value_delimiter = ',', default_value = "1000,10", value_parser = clap::value_parser!(u16).range(1..))]
    processes: Vec<u16>,

    /// Append a line to this file for each run
    #[arg(long)]
    csv: Option<PathBuf>,

    /// Draw a chart of each scenario into this folder
    #[arg(long)]
    charts: Option<PathBuf>,
}

/// The policies, and whether the chart shows them.
fn policies() -> Vec<(&'static str, Process, bool)> {
    let process = |retries, breaker: bool| Process { retries, breaker: breaker.then(Breaker::default) };
    vec![
        ("no retries", process(Retries::Never, false), true),
        ("3 retries", process(Retries::Always, false), true),
        ("AWS tokens", process(Retries::aws(), false), false),
        ("gRPC throttling", process(Retries::grpc(), false), false),
        ("Finagle, tower", process(Retries::finagle(), false), false),
        ("budget", process(Retries::budget(), false), true),
        ("breaker", process(Retries::Always, true), true),
        ("budget + breaker", process(Retries::budget(), true), true),
    ]
}

/// The name of each kind of trouble, and the trouble.
fn scenarios(processes: usize) -> [(&'static str, Scenario); 3] {
    let scenario = |load, capacity_left, seconds| Scenario { processes, load, capacity_left, seconds };
    [
        ("half capacity for 10 s at 80 % load", scenario(0.8, 0.5, 10)),
        ("half capacity for 10 s at 90 % load", scenario(0.9, 0.5, 10)),
        ("down for 5 s at 80 % load", scenario(0.8, 0.0, 5)),
    ]
}

/// One run, as a line of CSV.
#[derive(Debug, Serialize)]
struct Line<'a> {
    trouble: &'a str,
    processes: usize,
    policy: &'a str,
    expired: &'a str,
    seed: u64,
    peak_load: f64,
    /// Empty: not before the end.
    recovery: Option<usize>,
    lost: f64,
}

/// Simulates, and prints a table for each scenario.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    for &processes in &args.processes {
        for (trouble, scenario) in scenarios(usize::from(processes)) {
            simulate(args, trouble, scenario)?;
        }
    }
    Ok(())
}

fn simulate(args: &Args, trouble: &str, scenario: Scenario) -> anyhow::Result<()> {
    let title = format!("{} processes, {trouble}", scenario.processes);
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(["policy", "expired work", "peak load", "recovery s", "calls lost"]);
    let mut panels = Vec::new();
    for expired in Expired::ALL {
        let mut curves = Vec::new();
        for (policy, process, is_drawn) in policies() {
            let outcomes: Vec<Outcome> =
                (0..args.seeds).map(|seed| Simulation::run(scenario, &process, expired, seed)).collect();
            table.add_row([vec![policy.to_owned(), expired.name().to_owned()], cells(&outcomes)].concat());
            if let Some(file) = &args.csv {
                append_csv(file, lines_of(trouble, scenario, policy, expired, &outcomes))?;
            }
            if let Some(first) = outcomes.into_iter().next().filter(|_| is_drawn) {
                curves.push(Curve { name: policy, values: first.success });
            }
        }
        panels.push((format!("Work that its caller has given up: it {}", expired.name()), curves));
    }
    let lacking = scenario.lacking() * 100.0;
    println!("\n{title}: it takes away the capacity for {lacking:.1} % of the calls\n\n{table}\n");
    args.charts.as_deref().map_or(Ok(()), |folder| lines::draw(folder, &title, &panels))
}

/// The medians of a policy's runs.
fn cells(outcomes: &[Outcome]) -> Vec<String> {
    let median = |value: fn(&Outcome) -> f64| Spread::of(&outcomes.iter().map(value).collect::<Vec<_>>()).median;
    let recovery = median(|outcome| outcome.recovery.map_or(f64::INFINITY, |seconds| seconds as f64));
    vec![
        format!("{:.2}", median(|outcome| outcome.peak_load)),
        if recovery.is_finite() { format!("{recovery:.0}") } else { "never".to_owned() },
        format!("{:.1} %", median(|outcome| outcome.lost) * 100.0),
    ]
}

fn lines_of<'a>(
    trouble: &'a str,
    scenario: Scenario,
    policy: &'a str,
    expired: Expired,
    outcomes: &'a [Outcome],
) -> impl Iterator<Item = Line<'a>> {
    let processes = scenario.processes;
    (0..).zip(outcomes).map(move |(seed, outcome)| {
        let &Outcome { peak_load, recovery, lost, .. } = outcome;
        Line { trouble, processes, policy, expired: expired.name(), seed, peak_load, recovery, lost }
    })
}
