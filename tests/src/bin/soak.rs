//! Calls `#[transactional]` functions under random faults, and checks each result against the database.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum, value_parser};
use retry_tests::isolation::{self, Level};
use retry_tests::soak::{Options, run};

/// Calls many `#[transactional]` functions concurrently, while connections are cut, backends are terminated, cancelled
/// and killed, and calls are dropped. At the end it compares what each call returned with what is in the database.
///
/// It runs on a throwaway PostgreSQL server, which it crashes. The exit code is 1 if any call returned a wrong result.
#[derive(Debug, Parser)]
#[command(name = "soak", args_conflicts_with_subcommands = true, after_help = OTHER_CHECKS)]
struct Args {
    #[command(subcommand)]
    check: Option<Check>,
    #[command(flatten)]
    faults: Faults,
}

#[derive(Debug, Subcommand)]
enum Check {
    /// Checks the isolation of the transactions instead, by the rules of Elle
    ///
    /// Functions append to lists and read them, under the same faults, but without crashes. Their history is checked for
    /// anomalies that the isolation level forbids. The exit code is 1 if there is one, or if a call returned a wrong result.
    Isolation(Isolation),
}

#[derive(Debug, clap::Args)]
struct Faults {
    /// Number of calls
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = value_parser!(i64).range(1..))]
    calls: i64,
    /// Number of concurrent calls
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = value_parser!(u16).range(1..=100))]
    callers: u16,
    /// Seed of the random choices; timing still differs between runs. Default: a new seed for each run
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Seconds after which no further call begins
    #[arg(long, value_name = "N", default_value_t = 3_600)]
    seconds: u64,
}

#[derive(Debug, clap::Args)]
struct Isolation {
    /// Number of transactions, in histories of up to 100,000 that are checked one by one
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = value_parser!(i64).range(1..))]
    transactions: i64,
    /// Number of concurrent transactions
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = value_parser!(u16).range(1..=80))]
    workers: u16,
    /// Seed of the random choices of the first history; each further one adds 1. Default: a new seed for each run
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Isolation level of the functions
    #[arg(long, value_enum, default_value_t = LevelName::Serializable)]
    level: LevelName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LevelName {
    Serializable,
    /// Counts the anomalies that it allows, too: they show that the check can see
    ReadCommitted,
}

const OTHER_CHECKS: &str = "\
Other checks that take longer than scripts/test, each with its own --help:
  scripts/schedules  what calls share, under many schedules of its tasks
  scripts/planted    plants bugs in the runtime, and expects these checks to find them
  scripts/mutants    changes the runtime in many small ways, and expects a test to fail
  PROPTEST_CASES=100000 cargo test --locked --all-features -p retry-tests --test sequences
                     random calls, compared with a model
docs/verification.md has the last figures of each.";

/// A history of this size is checked within seconds.
const TRANSACTIONS_PER_HISTORY: i64 = 100_000;

#[tokio::main(worker_threads = 4)]
async fn main() -> ExitCode {
    let args = Args::parse();
    let all_is_right = match args.check {
        None => check_faults(&args.faults).await,
        Some(Check::Isolation(args)) => check_isolation(&args).await,
    };
    match all_is_right {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all is right.
async fn check_faults(args: &Faults) -> io::Result<bool> {
    let options = Options {
        calls: args.calls,
        callers: args.callers,
        seed: args.seed.unwrap_or_else(new_seed),
        limit: Duration::from_secs(args.seconds),
    };
    println!("seed {}", options.seed);
    let report = run(&options).await?;
    for wrong in report.wrong() {
        println!("{wrong}\n");
    }
    println!("{report}");
    Ok(report.wrong().is_empty())
}

/// Returns whether all is right.
async fn check_isolation(args: &Isolation) -> io::Result<bool> {
    let level = match args.level {
        LevelName::Serializable => Level::Serializable,
        LevelName::ReadCommitted => Level::ReadCommitted,
    };
    let first_seed = args.seed.unwrap_or_else(new_seed);
    println!("seed {first_seed}");
    let mut all_is_right = true;
    let mut left = args.transactions;
    for seed in first_seed.. {
        let transactions = left.min(TRANSACTIONS_PER_HISTORY);
        let options = isolation::Options { level, transactions, workers: args.workers, seed };
        let report = isolation::run(&options).await?;
        for wrong in report.wrong() {
            println!("{wrong}\n");
        }
        println!("{report}");
        all_is_right &= report.wrong().is_empty();
        left -= transactions;
        if left == 0 {
            break;
        }
    }
    Ok(all_is_right)
}

fn new_seed() -> u64 {
    rand::random_range(0..1_000_000)
}
