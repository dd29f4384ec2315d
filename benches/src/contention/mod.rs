//! Many callers, few rows: the same transfers with different retry strategies.
//!
//! In each round every strategy has one run, in shuffled order. Strategies are compared within a round, because a
//! machine's speed drifts by more than strategies differ. Goodput alone rewards starvation: one caller at full speed
//! while the others sleep. So read it together with p99.9, or measure an open loop (`--rate`).

mod attempt;
mod load;
mod ours;
mod peers;
pub(crate) mod process;
mod report;
mod scenario;
mod strategy;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::seq::SliceRandom;
use retry_runtime::install_queues;
use retry_tests::connect;

use self::load::Load;
pub(crate) use self::report::Line;
use self::report::Report;
use self::scenario::{Isolation, Scenario};
pub(crate) use self::strategy::Strategy;
use crate::environment::{Cluster, Environment, EnvironmentArgs};
use crate::summary::append_csv;

/// An option may have several values, separated by commas: every combination is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    environments: EnvironmentArgs,

    /// The isolation level
    #[arg(long, value_enum, value_delimiter = ',', default_value = "serializable")]
    isolation: Vec<Isolation>,

    /// How many rows the transfers use
    #[arg(long, value_delimiter = ',', default_value = "2,10,1000", value_parser = clap::value_parser!(i32).range(2..=10_000))]
    keys: Vec<i32>,

    /// How many connections there are, and in a closed loop callers
    #[arg(long, value_delimiter = ',', default_value = "32")]
    callers: Vec<usize>,

    /// How many processes share the callers. More than one: this program starts itself again for each
    #[arg(long, default_value_t = 1)]
    processes: usize,

    /// Calls per second of an open loop: calls arrive at random times, and their latency counts from their arrival.
    /// Without it the loop is closed: each caller makes one call after the other
    #[arg(long)]
    rate: Option<f64>,

    /// Runs of each strategy
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// The length of a run
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,

    /// Measure only these strategies. Ratios are relative to `immediate`
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',')]
    only: Vec<Strategy>,

    /// Append a line to this file for each run
    #[arg(long)]
    csv: Option<PathBuf>,
}

/// Measures, and prints a table for each scenario.
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.callers.iter().all(|callers| (1..=150).contains(callers)), "from 1 to 150 callers");
    ensure!(
        args.processes > 0 && args.callers.iter().all(|callers| callers % args.processes == 0),
        "the processes cannot share the callers evenly"
    );
    for environment in args.environments.all() {
        let cluster = Cluster::start(environment).await?;
        for &isolation in &args.isolation {
            for &keys in &args.keys {
                for &callers in &args.callers {
                    measure(args, environment, &cluster, Scenario { isolation, keys, callers }).await?;
                }
            }
        }
    }
    Ok(())
}

async fn measure(args: &Args, environment: Environment, cluster: &Cluster, scenario: Scenario) -> anyhow::Result<()> {
    let strategies = if args.only.is_empty() { Strategy::all() } else { &args.only };
    let load = Load { length: Duration::from_secs_f64(args.seconds), rate: args.rate, processes: args.processes };
    let admin = connect(&cluster.direct()).await;
    install_queues(&admin).await?;
    let mut report = Report { environment, scenario, load, strategies, rounds: Vec::new() };
    for _ in 0..args.rounds {
        let mut order: Vec<usize> = (0..strategies.len()).collect();
        order.shuffle(&mut rand::rng());
        let mut outcomes = vec![None; strategies.len()];
        for index in order {
            let strategy = strategies[index];
            let outcome = load::run(cluster, &admin, scenario, load, strategy).await;
            outcomes[index] = Some(outcome.with_context(|| format!("{}, {scenario:?}", strategy.name()))?);
        }
        report.rounds.push(outcomes.into_iter().flatten().collect());
    }
    let Scenario { isolation, keys, callers } = scenario;
    let arrivals = args.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{rate} calls/s"));
    let processes = if args.processes > 1 { format!(" in {} processes", args.processes) } else { String::new() };
    println!("\n{isolation}, {keys} keys, {callers} callers{processes}, {arrivals}\n{}\n", report.table());
    args.csv.as_deref().map_or(Ok(()), |file| append_csv(file, report.lines()))
}
