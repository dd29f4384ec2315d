//! A throwaway server, with the latency of a network and of a disk on request.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use retry_tests::{Server, connect};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::delay::Delay;
use crate::summary::Spread;

/// The environments in which a command measures, one after the other.
#[derive(Args, Debug)]
pub(crate) struct EnvironmentArgs {
    /// Latencies of the network, from client to server
    #[arg(long, value_parser = humantime::parse_duration, value_delimiter = ',', default_value = "0ms")]
    latency: Vec<Duration>,

    /// How long the disk takes to flush. 0 means no disk: `fsync` and `synchronous_commit` are off. Otherwise the disk
    /// is simulated: the cluster is in memory, and a flush begins with a sleep (`commit_delay`)
    #[arg(long, value_parser = humantime::parse_duration, value_delimiter = ',', default_value = "0ms")]
    disk: Vec<Duration>,
}

impl EnvironmentArgs {
    /// Every combination.
    pub(crate) fn all(&self) -> impl Iterator<Item = Environment> {
        self.latency.iter().flat_map(|&latency| self.disk.iter().map(move |&disk| Environment { latency, disk }))
    }
}

/// The latencies of one environment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Environment {
    /// Added to every round trip.
    pub(crate) latency: Duration,
    /// How long the disk takes to flush.
    pub(crate) disk: Duration,
}

impl Environment {
    /// The settings of the server. Autovacuum is off, because it would run at random times.
    ///
    /// The disk is simulated: the cluster is in memory, and the leader of each group commit sleeps before it flushes
    /// (`commit_delay`), while the others wait for it. On a real disk, a flush covers only what was written before it
    /// began.
    fn settings(self) -> Vec<String> {
        let mut settings =
            vec!["autovacuum=off", "deadlock_timeout=1s", "shared_buffers=128MB", "log_min_messages=fatal"];
        let delay = format!("commit_delay={}", self.disk.as_micros());
        if !self.disk.is_zero() {
            settings.extend(["fsync=on", "synchronous_commit=on", "commit_siblings=0", &delay]);
        }
        settings.into_iter().map(str::to_owned).collect()
    }
}

/// A running server, and the proxy in front of it, if there is one.
#[derive(Debug)]
pub(crate) struct Cluster {
    server: Server,
    delay: Option<Delay>,
}

impl Cluster {
    /// Starts a server, and prints how long a round trip to it takes.
    pub(crate) async fn start(environment: Environment) -> anyhow::Result<Self> {
        let settings = environment.settings();
        let server = Server::start_with(&settings.iter().map(String::as_str).collect::<Vec<_>>())?;
        let folder = match server.config().get_hosts().first() {
            Some(Host::Unix(folder)) => folder.clone(),
            _ => anyhow::bail!("the server has no socket"),
        };
        let delay = (!environment.latency.is_zero()).then(|| Delay::start(&folder, environment.latency)).transpose()?;
        let cluster = Self { server, delay };
        cluster.introduce(environment).await?;
        Ok(cluster)
    }

    /// Connects through the proxy, if there is one.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new();
        config.host_path(self.socket_folder()).user("postgres").dbname("postgres");
        config
    }

    /// Connects without the proxy.
    pub(crate) fn direct(&self) -> Config {
        self.server.config()
    }

    /// The folder of the socket that [`Cluster::config`] connects to.
    pub(crate) fn socket_folder(&self) -> std::path::PathBuf {
        match (&self.delay, self.server.config().get_hosts()) {
            (Some(delay), _) => delay.dir(),
            (None, [Host::Unix(folder), ..]) => folder.clone(),
            (None, _) => unreachable!("the harness listens on a socket"),
        }
    }

    async fn introduce(&self, environment: Environment) -> anyhow::Result<()> {
        let client = connect(&self.direct()).await;
        let version: String = client.query_one("SHOW server_version", &[]).await?.get(0);
        let (network, socket) = (ping(&self.config()).await?, ping(&self.direct()).await?);
        println!(
            "PostgreSQL {version}, latency {:?}, disk {:?}: a round trip takes {network:.2} ms, without the proxy {socket:.2} ms",
            environment.latency, environment.disk,
        );
        Ok(())
    }
}

/// The median time of a round trip in milliseconds.
async fn ping(config: &Config) -> anyhow::Result<f64> {
    let client = connect(config).await;
    let mut times = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        client.simple_query("").await.context("ping")?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Spread::of(&times).median)
}

/// Puts throwaway clusters in memory if the system has a folder for that. A flush of a real disk takes anything from
/// 0.1 to 10 ms.
pub(crate) fn keep_clusters_in_memory() {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        // Fails only if it was called before.
        let _ = tempfile::env::override_temp_dir(memory);
    }
}
