//! The demo: workers move money between a few accounts and get in each other's way, without retries and with them.
//!
//! `cargo run --release -p retry-examples --example bank -- --help`. The functions under `#[transactional]` are in
//! `calls.rs`; the rest is stage and audience.

mod calls;
mod database;
mod progress;
mod report;
mod run;
mod tally;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, value_parser};
use tokio::select;
use tokio::sync::watch;

use crate::calls::Act;
use crate::database::Database;
use crate::run::{Run, Stage};
use crate::tally::Tally;

/// Workers move money between a few accounts and get in each other's way: in act one under SERIALIZABLE, in act two
/// with row locks that deadlock. Each act runs without retries and then with them.
///
/// The exit code is 1 where money was made or lost, or where the ledger disagrees with what the calls returned.
#[derive(Debug, Parser)]
#[command(name = "bank")]
struct Options {
    /// How many workers call at the same time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u16).range(1..=200))]
    workers: u16,
    /// How many accounts there are: the fewer, the more conflicts
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(i64).range(2..=1_000_000))]
    accounts: i64,
    /// How long each of the four runs takes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// The PostgreSQL to run on, as in `postgres://user@host/database`; the demo makes a schema there and drops it.
    /// Otherwise it starts a throwaway server, which finds deadlocks after 20 ms, and not after the usual second
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let interrupted = interrupted();
    match demo(&options, interrupted.clone()).await {
        // As a shell reports what Ctrl-C has ended.
        _ if *interrupted.borrow() => ExitCode::from(130),
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Turns true on Ctrl-C, which from now on no longer ends the process.
fn interrupted() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        sender.send_replace(true);
    });
    receiver
}

/// Runs both acts and says whether every promise was kept.
async fn demo(options: &Options, mut interrupted: watch::Receiver<bool>) -> anyhow::Result<bool> {
    let workers = usize::from(options.workers);
    println!("{workers} workers move money between {} accounts.", options.accounts);
    let database = select! {
        database = Database::open(options.database_url.as_deref(), workers) => database?,
        _ = interrupted.wait_for(|interrupted| *interrupted) => return Ok(true),
    };
    let kept = show(&database, options, interrupted).await;
    let closed = database.close().await;
    let kept = kept?;
    closed?;
    Ok(kept)
}

async fn show(database: &Database, options: &Options, interrupted: watch::Receiver<bool>) -> anyhow::Result<bool> {
    println!("{}", database.describe().await?);
    let workers = usize::from(options.workers);
    let (accounts, length) = (options.accounts, Duration::from_secs(options.seconds));
    let (pool, tally) = (database.pool(workers).await?, Tally::install());
    let stage = Stage { database, pool, tally, workers, accounts, length, interrupted };
    let mut runs = Vec::new();
    let result = acts(&stage, &mut runs).await;
    if *stage.interrupted.borrow() {
        println!("\nInterrupted: the calls under way were dropped.");
    }
    let kept = runs.is_empty() || report::print(&runs);
    result.map(|()| kept)
}

async fn acts(stage: &Stage<'_>, runs: &mut Vec<Run>) -> anyhow::Result<()> {
    for act in [Act::Serializable, Act::RowLocks] {
        for retries in [false, true] {
            if *stage.interrupted.borrow() {
                return Ok(());
            }
            if !retries {
                println!("\n{}", act.heading());
            }
            runs.push(stage.run(act, retries).await?);
        }
    }
    Ok(())
}
