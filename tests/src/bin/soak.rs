//! Calls `#[transactional]` functions under random faults, and checks each result against the database.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, value_parser};
use retry_tests::soak::{Options, run};

/// Calls many `#[transactional]` functions concurrently, while connections are cut, backends are terminated, cancelled
/// and killed, and calls are dropped. At the end it compares what each call returned with what is in the database.
///
/// It runs on a throwaway PostgreSQL server, which it crashes. The exit code is 1 if any call returned a wrong result.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Args {
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

#[tokio::main(worker_threads = 4)]
async fn main() -> ExitCode {
    let args = Args::parse();
    let options = Options {
        calls: args.calls,
        callers: args.callers,
        seed: args.seed.unwrap_or_else(|| rand::random_range(0..1_000_000)),
        limit: Duration::from_secs(args.seconds),
    };
    println!("seed {}", options.seed);
    let report = match run(&options).await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    for wrong in report.wrong() {
        println!("{wrong}\n");
    }
    println!("{report}");
    if report.wrong().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
