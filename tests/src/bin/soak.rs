//! Calls `#[transactional]` functions under random faults, and checks that every caller was told the truth.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, value_parser};
use retry_tests::soak::{Options, run};

/// Many calls of `#[transactional]` functions, of all kinds and at once, while connections are cut, backends are
/// terminated, cancelled and killed, and callers lose their patience. At the end each caller's verdict is held against
/// what is in the database.
///
/// It runs on a throwaway PostgreSQL server, which it crashes. The exit code is 1 where a verdict was wrong.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Args {
    /// How many calls
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = value_parser!(i64).range(1..))]
    calls: i64,
    /// How many calls at the same time
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = value_parser!(u16).range(1..=100))]
    callers: u16,
    /// What chance depends on, as far as it does not depend on timing; by default another one each time
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// No call begins after that
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
