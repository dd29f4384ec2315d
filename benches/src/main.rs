//! Compares `#[transactional]` with its peers, on throwaway PostgreSQL servers.
//!
//! `overhead` measures what a transaction costs if nothing goes wrong. `contention` measures how many transactions
//! commit if they conflict. `charts` draws the results of both. `storm` measures what retries do to a server in trouble,
//! and `storm-model` simulates it.

// Counts and times are far from 2^53.
#![allow(clippy::cast_precision_loss)]

mod charts;
mod contention;
mod delay;
mod environment;
mod overhead;
mod pin;
mod storm;
mod storm_model;
mod summary;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Compares #[transactional] with its peers, on throwaway PostgreSQL servers")]
struct Cli {
    /// Threads of the client's runtime; by default one per core
    #[arg(long, global = true)]
    threads: Option<usize>,

    /// Run client and server on this core only, counted from 0 (Linux)
    #[arg(long, global = true, value_name = "CORE")]
    pin: Option<usize>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One caller per row: what a transaction costs if nothing goes wrong
    Overhead(overhead::Args),
    /// Many callers, few rows: which retry strategy commits most, and how long its slowest calls take
    Contention(contention::Args),
    /// One of the processes of `contention --processes`
    #[command(hide = true)]
    ContentionProcess(contention::process::Args),
    /// A server that loses capacity for five seconds under load: how soon its callers succeed again
    Storm(storm::Args),
    /// A model of retry storms: what retries do to the load on a database in trouble, and to its recovery
    StormModel(storm_model::Args),
    /// Draw the CSV files of `overhead` and `contention` as SVG
    Charts(charts::Args),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(core) = cli.pin {
        pin::pin_to(core)?;
    }
    environment::keep_clusters_in_memory();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = cli.threads {
        runtime.worker_threads(threads);
    }
    runtime.enable_all().build()?.block_on(async {
        match cli.command {
            Command::Overhead(args) => overhead::run(&args).await,
            Command::Contention(args) => contention::run(&args).await,
            Command::ContentionProcess(args) => contention::process::run(&args).await,
            Command::Storm(args) => storm::run(&args).await,
            Command::StormModel(args) => storm_model::run(&args),
            Command::Charts(args) => charts::run(&args),
        }
    })
}
