//! The demo: concurrent workers move money between a few accounts, without retries and with them. Then the server goes
//! away for three seconds.
//!
//! `cargo run --release -p retry-examples --example bank -- --help`. The `#[transactional]` functions are in `calls.rs`;
//! the other modules prepare the database, run the workers and report.

mod calls;
mod database;
mod outage;
mod progress;
mod report;
mod run;
mod tally;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, value_parser};
use indicatif::HumanCount;
use tokio::select;
use tokio::sync::watch;

use crate::calls::{Order, Workload};
use crate::database::Database;
use crate::outage::Protection;
use crate::run::{Bank, Run};
use crate::tally::Tally;

/// Concurrent workers move money between a few accounts, and conflict: first under SERIALIZABLE, then with row locks
/// that deadlock. The same transfers run without retries and then with them. At last the server goes away for a while,
/// and comes back.
///
/// The exit code is 1 if the total of the money has changed, or if the ledger disagrees with what the calls returned.
#[derive(Debug, Parser)]
#[command(name = "bank")]
struct Options {
    /// Number of concurrent workers
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u16).range(1..=200))]
    workers: u16,
    /// Number of accounts: fewer accounts, more conflicts
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(i64).range(2..=1_000_000))]
    accounts: i64,
    /// Number of transfers in each run
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = value_parser!(i64).range(1..=1_000_000))]
    transfers: i64,
    /// How long the server is away, in seconds; 0 leaves this part out
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    outage: f64,
    /// The PostgreSQL to use, as in `postgres://user@host/database`; the demo creates a schema there and drops it.
    /// Default: a throwaway server, which looks for deadlocks after 20 ms instead of PostgreSQL's default of 1 s
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let interrupted = interrupted();
    match demo(&options, interrupted.clone()).await {
        // The code with which a shell reports that Ctrl-C ended a program.
        _ if *interrupted.borrow() => ExitCode::from(130),
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Turns true on Ctrl-C, which no longer ends the process by itself.
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

/// Runs the demo. Returns whether all checks passed.
async fn demo(options: &Options, mut interrupted: watch::Receiver<bool>) -> anyhow::Result<bool> {
    let workers = usize::from(options.workers);
    println!("{workers} workers move money between {} accounts.", options.accounts);
    let database = select! {
        database = Database::open(options.database_url.as_deref(), workers) => database?,
        _ = interrupted.wait_for(|interrupted| *interrupted) => return Ok(true),
    };
    let passed = run_and_report(&database, options, interrupted).await;
    let closed = database.close().await;
    let passed = passed?;
    closed?;
    Ok(passed)
}

async fn run_and_report(
    database: &Database,
    options: &Options,
    interrupted: watch::Receiver<bool>,
) -> anyhow::Result<bool> {
    println!("{}", database.describe().await?);
    println!("Each run makes the same {} transfers.", HumanCount(options.transfers.unsigned_abs()));
    let (workers, accounts) = (usize::from(options.workers), options.accounts);
    let (pool, tally) = (database.pool(workers).await?, Tally::install());
    let orders = (0..options.transfers).map(|call| Order::random(call, accounts)).collect();
    let bank = Bank { database, pool, tally, workers, accounts, orders, interrupted };
    let mut runs = Vec::new();
    let result = run_all(&bank, Duration::from_secs_f64(options.outage), &mut runs).await;
    let interrupted = *bank.interrupted.borrow();
    if interrupted {
        println!("\nInterrupted: the calls in progress were dropped.");
    }
    let passed = runs.is_empty() || report::print(&runs);
    if passed && !interrupted && result.is_ok() {
        println!("\nNext: examples/README.md, a program for each problem; README.md, the options.");
    }
    result.map(|()| passed)
}

async fn run_all(bank: &Bank<'_>, away: Duration, runs: &mut Vec<Run>) -> anyhow::Result<()> {
    for workload in [Workload::Serializable, Workload::RowLocks] {
        for retries in [false, true] {
            if *bank.interrupted.borrow() {
                return Ok(());
            }
            if !retries {
                println!("\n{}", workload.heading());
            }
            runs.push(bank.run(workload, retries).await?);
        }
    }
    if !away.is_zero() {
        run_outage(bank, away, runs).await?;
    }
    Ok(())
}

async fn run_outage(bank: &Bank<'_>, away: Duration, runs: &mut Vec<Run>) -> anyhow::Result<()> {
    println!("\nOUTAGE: transfers at a steady rate, and the server is away for {away:?}");
    if !bank.database.is_throwaway() {
        println!("  Left out: it would stop the server of the database URL.");
        return Ok(());
    }
    for protection in Protection::ALL {
        if *bank.interrupted.borrow() {
            return Ok(());
        }
        runs.push(bank.outage(protection, away).await?);
    }
    Ok(())
}

/// Reads a number of seconds, up to a minute.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=60.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number from 0 to 60".to_owned()),
    }
}
