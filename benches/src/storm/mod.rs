//! A retry storm on a real server: its capacity falls for five seconds under a steady load.
//!
//! In each round every strategy has one run, in shuffled order. `storm_model` is a model of a fleet in the same trouble.

mod load;
mod server;
mod strategy;

use std::path::PathBuf;

use clap::ValueEnum;
use comfy_table::Table;
use rand::seq::SliceRandom;
use serde::Serialize;

use self::load::{Load, Outcome, TROUBLE};
use self::server::Bottleneck;
use self::strategy::Strategy;
use crate::summary::{Spread, append_csv};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The load, relative to the measured capacity
    #[arg(long, default_value_t = 0.8)]
    load: f64,

    /// How many times as long a transaction takes during the trouble
    #[arg(long, default_value_t = 4.0)]
    slowdown: f64,

    /// Connections in the pool
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=300))]
    connections: u16,

    /// Seconds after the trouble
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(3..))]
    after: u16,

    /// Runs of each strategy
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Measure only these strategies
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',')]
    only: Vec<Strategy>,

    /// Append a line to this file for each run
    #[arg(long)]
    csv: Option<PathBuf>,
}

/// One run, as a line of CSV.
#[derive(Debug, Serialize)]
struct Line {
    load: f64,
    slowdown: f64,
    connections: u16,
    round: usize,
    strategy: String,
    peak_load: f64,
    /// Empty: not before the end.
    recovery: Option<usize>,
    lost: f64,
    refusals: u64,
}

/// Measures, and prints a table.
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let strategies = if args.only.is_empty() { Strategy::value_variants() } else { &args.only };
    let server = Bottleneck::start().await?;
    let capacity = server.measure().await?;
    let rate = capacity * args.load;
    let load = Load {
        rate,
        connections: usize::from(args.connections),
        slowdown: args.slowdown,
        after: usize::from(args.after),
    };
    println!(
        "{capacity:.0} transactions per second, {rate:.0} calls per second; for {TROUBLE} s, transactions take {} times as long",
        args.slowdown
    );
    let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); strategies.len()];
    for round in 0..args.rounds {
        let mut order: Vec<usize> = (0..strategies.len()).collect();
        order.shuffle(&mut rand::rng());
        for index in order {
            let outcome = load::run(&server, load, strategies[index]).await?;
            if let Some(file) = &args.csv {
                append_csv(file, std::iter::once(line(args, round, strategies[index], &outcome)))?;
            }
            outcomes[index].push(outcome);
        }
    }
    println!("\n{}\n", table(strategies, &outcomes));
    Ok(())
}

fn line(args: &Args, round: usize, strategy: Strategy, outcome: &Outcome) -> Line {
    let &Args { load, slowdown, connections, .. } = args;
    let &Outcome { peak_load, recovery, lost, refusals } = outcome;
    Line { load, slowdown, connections, round, strategy: strategy.name(), peak_load, recovery, lost, refusals }
}

fn table(strategies: &[Strategy], outcomes: &[Vec<Outcome>]) -> Table {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(["strategy", "peak load", "recovery s", "calls lost %", "refusals"]);
    for (strategy, outcomes) in strategies.iter().zip(outcomes) {
        let spread = |value: fn(&Outcome) -> f64| Spread::of(&outcomes.iter().map(value).collect::<Vec<_>>());
        let recovery = spread(|outcome| outcome.recovery.map_or(f64::INFINITY, |seconds| seconds as f64));
        table.add_row([
            strategy.name(),
            format!("{:.2}", spread(|outcome| outcome.peak_load)),
            format!("{recovery:.0}").replace("inf", "never"),
            format!("{:.1}", spread(|outcome| outcome.lost * 100.0)),
            format!("{:.0}", spread(|outcome| outcome.refusals as f64)),
        ]);
    }
    table
}
