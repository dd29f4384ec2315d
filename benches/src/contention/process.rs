//! Calls from several processes at once: this program starts itself again for each of them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use tokio_postgres::Config;

use super::attempt::Run;
use super::load::{Load, Outcome, calls};
use super::scenario::{Isolation, Scenario};
use super::strategy::Strategy;

/// What one of the processes does.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long, value_enum)]
    isolation: Isolation,
    #[arg(long)]
    keys: i32,
    #[arg(long)]
    callers: usize,
    #[arg(long)]
    micros: u64,
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, value_enum)]
    strategy: Strategy,
}

/// Runs in one of the processes: waits for a line, makes its calls, and prints their outcome.
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let mut config = Config::new();
    config.host_path(&args.socket).user("postgres").dbname("postgres");
    let scenario = Scenario { isolation: args.isolation, keys: args.keys, callers: args.callers };
    let pool = scenario.pool(config.clone()).await?;
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    let run = Arc::new(Run::new(pool, config, scenario, Duration::from_micros(args.micros)));
    let calls = calls(&run, args.strategy, args.rate).await?;
    println!("{}", written(&Outcome::of(&run, &calls)?));
    Ok(())
}

/// Processes that are connected, and wait for the word to begin.
#[derive(Debug)]
pub(crate) struct Processes(Vec<Child>);

impl Processes {
    /// Starts them, and waits until all are ready.
    pub(crate) fn start(socket: &Path, scenario: Scenario, load: Load, strategy: Strategy) -> anyhow::Result<Self> {
        let callers = scenario.callers / load.processes;
        let mut processes = Self(Vec::new());
        for _ in 0..load.processes {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["--threads", "1", "contention-process", "--isolation", &name(&scenario.isolation)]);
            command.args(["--strategy", &name(&strategy), "--keys", &scenario.keys.to_string()]);
            command.args(["--callers", &callers.to_string(), "--micros", &load.length.as_micros().to_string()]);
            if let Some(rate) = load.rate {
                command.args(["--rate", &(rate / load.processes as f64).to_string()]);
            }
            command.arg("--socket").arg(socket).stdin(Stdio::piped()).stdout(Stdio::piped());
            processes.0.push(command.spawn()?);
        }
        for process in &mut processes.0 {
            ensure!(process.line()? == "ready", "a process did not start");
        }
        Ok(processes)
    }

    /// Lets them begin.
    pub(crate) fn begin(&mut self) -> anyhow::Result<()> {
        Ok(self.0.iter_mut().try_for_each(|process| process.stdin.as_mut().map_or(Ok(()), |stdin| writeln!(stdin)))?)
    }

    /// Waits for all of them, and adds up what they did.
    pub(crate) fn outcome(mut self) -> anyhow::Result<Outcome> {
        let mut sum = Outcome { attempts: 0, commits: 0, late_commits: 0, give_ups: 0, latencies: Histogram::new(3)? };
        for process in &mut self.0 {
            let outcome = read(&process.line()?).context("a process has failed")?;
            sum.attempts += outcome.attempts;
            sum.commits += outcome.commits;
            sum.late_commits += outcome.late_commits;
            sum.give_ups += outcome.give_ups;
            sum.latencies.add(&outcome.latencies)?;
        }
        Ok(sum)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &mut self.0 {
            // Does nothing if it has ended.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

trait Line {
    /// The next line that it prints. It prints no line before the last one was read, so nothing is lost with the buffer.
    fn line(&mut self) -> anyhow::Result<String>;
}

impl Line for Child {
    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        BufReader::new(self.stdout.as_mut().context("its output is piped")?).read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Four counts, and each latency with its count.
fn written(outcome: &Outcome) -> String {
    let counts = [outcome.attempts, outcome.commits, outcome.late_commits, outcome.give_ups].into_iter();
    let latencies = outcome.latencies.iter_recorded();
    let latencies = latencies.flat_map(|latency| [latency.value_iterated_to(), latency.count_at_value()]);
    counts.chain(latencies).map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
}

fn read(line: &str) -> anyhow::Result<Outcome> {
    let numbers = line.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    let [attempts, commits, late_commits, give_ups, ref recorded @ ..] = numbers[..] else {
        anyhow::bail!("four counts, and not {line:?}");
    };
    let mut latencies = Histogram::new(3)?;
    for latency in recorded.chunks_exact(2) {
        latencies.record_n(latency[0], latency[1])?;
    }
    Ok(Outcome { attempts, commits, late_commits, give_ups, latencies })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_read_as_it_was_written() {
        let mut latencies = Histogram::new(3).expect("3 is a valid precision");
        for latency in [7, 7, 70_000, 1_000_000] {
            latencies.record(latency).expect("resizable");
        }
        let outcome = Outcome { attempts: 9, commits: 3, late_commits: 1, give_ups: 2, latencies };
        assert_eq!(written(&read(&written(&outcome)).expect("an outcome")), written(&outcome));
        assert!(written(&outcome).starts_with("9 3 1 2 7 2 "));
        assert!(read("").is_err());
    }
}
