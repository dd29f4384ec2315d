//! What a transaction costs if nothing goes wrong: two statements by key, on rows that no other transaction uses.
//!
//! The variants run in short bursts, in shuffled order, and are compared within a block of bursts, because a machine's
//! speed drifts by more than variants differ. Each burst's count is checked against the table.

mod burst;
mod by_hand;
mod diesel;
mod ours;
mod report;
mod session;
mod sqlx;
mod variant;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::seq::SliceRandom;
use retry_tests::connect;

use self::burst::Crew;
pub(crate) use self::report::Line;
use self::report::Report;
pub(crate) use self::variant::Variant;
use crate::environment::{Cluster, Environment, EnvironmentArgs};
use crate::summary::append_csv;

/// An option may have several values, separated by commas: every combination is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    environments: EnvironmentArgs,

    /// How many connections are in use
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    connections: Vec<usize>,

    /// Blocks of bursts. Variants are compared within a block
    #[arg(long, default_value_t = 10)]
    blocks: usize,

    /// Bursts of each variant in a block
    #[arg(long, default_value_t = 20)]
    bursts: usize,

    /// The length of a burst
    #[arg(long, value_parser = humantime::parse_duration, default_value = "20ms")]
    burst: Duration,

    /// Measure only these variants. Ratios are relative to `raw`
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',')]
    only: Vec<Variant>,

    /// Append a line to this file for each variant and block
    #[arg(long)]
    csv: Option<PathBuf>,
}

/// Measures, and prints a table for each environment and number of connections.
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(
        args.connections.iter().all(|count| (1..=session::SESSIONS).contains(count)),
        "from 1 to {} connections",
        session::SESSIONS
    );
    for environment in args.environments.all() {
        let cluster = Cluster::start(environment).await?;
        for &connections in &args.connections {
            measure(args, environment, &cluster, connections).await?;
        }
    }
    Ok(())
}

async fn measure(args: &Args, environment: Environment, cluster: &Cluster, connections: usize) -> anyhow::Result<()> {
    let variants = if args.only.is_empty() { Variant::all() } else { &args.only };
    let admin = connect(&cluster.direct()).await;
    session::reset(&admin).await?;
    let mut crews = Vec::new();
    for &variant in variants {
        crews.push(Crew::open(variant, cluster, connections).await?);
    }
    let mut report = Report { environment, connections, variants, blocks: Vec::new() };
    let mut transactions = 0;
    for _ in 0..args.blocks {
        let mut block = vec![Vec::new(); variants.len()];
        let mut order: Vec<usize> = (0..variants.len()).cycle().take(variants.len() * args.bursts).collect();
        order.shuffle(&mut rand::rng());
        for index in order {
            let name = || format!("variant {}", variants[index].name());
            let (latencies, warm_up) = crews[index].burst(args.burst).await.with_context(name)?;
            transactions += latencies.len() as u64 + warm_up;
            session::verify(&admin, transactions).await.with_context(name)?;
            block[index].extend(latencies);
        }
        report.blocks.push(block);
    }
    println!("\nconnections: {connections}\n{}\n", report.table());
    args.csv.as_deref().map_or(Ok(()), |file| append_csv(file, report.lines()))
}
