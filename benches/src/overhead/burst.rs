//! All sessions of a variant make transactions for a short time.

use std::time::{Duration, Instant};

use super::session::{ROWS, Session};
use super::variant::Variant;
use crate::environment::Cluster;

/// The sessions of one variant. They keep their connections and statements between bursts.
pub(crate) struct Crew {
    workers: Vec<Worker>,
}

struct Worker {
    session: Box<dyn Session>,
    /// Its first row.
    first: i32,
    /// How many transactions it has made.
    count: i32,
}

impl Crew {
    pub(crate) async fn open(variant: Variant, cluster: &Cluster, sessions: usize) -> anyhow::Result<Self> {
        let sessions = variant.open(cluster, sessions).await?;
        let worker = |(session, first)| Worker { session, first, count: 0 };
        Ok(Self { workers: sessions.into_iter().zip((1..).step_by(ROWS as usize)).map(worker).collect() })
    }

    /// Makes transactions for `length`: each session one at a time, all sessions at once. Returns their latencies, and
    /// how many transactions warmed up the connections before.
    pub(crate) async fn burst(&mut self, length: Duration) -> anyhow::Result<(Vec<Duration>, u64)> {
        const WARM_UP: u64 = 2;
        let tasks = self.workers.drain(..).map(|mut worker| {
            tokio::spawn(async move {
                for _ in 0..WARM_UP {
                    worker.increment().await?;
                }
                let mut latencies = Vec::new();
                let end = Instant::now() + length;
                let mut now = Instant::now();
                while now < end {
                    worker.increment().await?;
                    let then = std::mem::replace(&mut now, Instant::now());
                    latencies.push(now - then);
                }
                anyhow::Ok((worker, latencies))
            })
        });
        let (mut latencies, mut warm_up) = (Vec::new(), 0);
        for task in tasks.collect::<Vec<_>>() {
            let (worker, of_one) = task.await??;
            self.workers.push(worker);
            latencies.extend(of_one);
            warm_up += WARM_UP;
        }
        Ok((latencies, warm_up))
    }
}

impl Worker {
    async fn increment(&mut self) -> anyhow::Result<()> {
        let id = self.first + self.count % ROWS;
        self.count += 1;
        self.session.increment(id).await
    }
}
