//! Random faults: cut connections, terminated and cancelled backends, and server crashes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::{Client, Config, Error, NoTls};

use crate::proxy::{Cut, Fault, contains};

/// The `application_name` of the sessions that faults may hit.
pub(crate) const VICTIM: &str = "soak";

/// All faults so far.
#[derive(Debug)]
pub(crate) struct Faults {
    began: Instant,
    list: Mutex<Vec<(Duration, &'static str, String)>>,
    over: AtomicBool,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), list: Mutex::default(), over: AtomicBool::new(false) }
    }

    fn list(&self) -> MutexGuard<'_, Vec<(Duration, &'static str, String)>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, kind: &'static str, about: String) {
        self.list().push((self.began.elapsed(), kind, about));
    }

    /// The time since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Stops all faults.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// The number of faults of each kind.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for (_, kind, _) in self.list().iter() {
            *counts.entry(*kind).or_default() += 1;
        }
        counts
    }

    /// The faults of any session between two times.
    pub(crate) fn between(&self, from: Duration, to: Duration) -> Vec<String> {
        let list = self.list();
        let within = list.iter().filter(|(at, ..)| (from..=to).contains(at));
        within.map(|(at, kind, about)| format!("{at:.3?} {kind}: {about}")).collect()
    }

    /// Picks the messages on which the proxy fails a connection: `COMMIT` ten times as often as others.
    pub(crate) fn of_messages(self: &Arc<Self>, seed: u64) -> impl FnMut(&[u8]) -> Option<Fault> + Send + 'static {
        let faults = self.clone();
        let mut rng = StdRng::seed_from_u64(seed);
        move |message| {
            let commit = contains(message, "COMMIT");
            if faults.is_over() || !rng.random_bool(if commit { 0.04 } else { 0.004 }) {
                return None;
            }
            let (request, reply) = if rng.random_bool(0.5) {
                (rng.random_range(0..=message.len()), 0)
            } else {
                (usize::MAX, rng.random_range(0..50))
            };
            let (kind, cut) = match rng.random_range(0..5) {
                0 | 1 => ("connection closed", Cut::Close),
                2 | 3 => ("connection reset", Cut::Reset),
                _ => ("connection silent", Cut::SilentFor(Duration::from_millis(rng.random_range(20..400)))),
            };
            let fault = Fault { text: if commit { "COMMIT" } else { "" }, request, reply, cut };
            let text: String =
                message.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| *byte as char).collect();
            let text = &text[..text.len().min(80)];
            faults.add(kind, format!("{request} bytes of {}, {reply} of the reply, {cut:?}: {text}", message.len()));
            Some(fault)
        }
    }

    /// Terminates and cancels random backends until faults are stopped, and crashes the server when `calls` passes one of
    /// `crashes`.
    pub(crate) async fn of_backends(&self, config: &Config, seed: u64, calls: &AtomicI64, mut crashes: Vec<i64>) {
        let mut rng = StdRng::seed_from_u64(seed);
        while !self.is_over() {
            let Ok((client, connection)) = config.connect(NoTls).await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            tokio::spawn(connection);
            while !self.is_over() && !client.is_closed() {
                tokio::time::sleep(Duration::from_millis(rng.random_range(5..30))).await;
                let crash = crashes.last().is_some_and(|at| calls.load(Ordering::Relaxed) >= *at);
                if crash {
                    crashes.pop();
                }
                // Fails if the server is down.
                let _ = self.hit_one(&client, &mut rng, crash).await;
            }
        }
    }

    async fn hit_one(&self, client: &Client, rng: &mut StdRng, crash: bool) -> Result<(), Error> {
        const TERMINATED: &str = "backend terminated";
        let (kind, function, which) = match rng.random_range(0..10) {
            _ if crash => ("server crashed", "", "query LIKE 'INSERT%' OR query LIKE '%COMMIT'"),
            0 => (TERMINATED, "pg_terminate_backend", "true"),
            1 => (TERMINATED, "pg_terminate_backend", "query LIKE '%COMMIT' AND state = 'active'"),
            2 => (TERMINATED, "pg_terminate_backend", "state = 'idle in transaction'"),
            3..=5 => ("statement cancelled", "pg_cancel_backend", "query LIKE '%COMMIT' AND state = 'active'"),
            _ => ("statement cancelled", "pg_cancel_backend", "state = 'active'"),
        };
        let sql = format!(
            "SELECT pid, left(query, 60), {function}(pid) FROM (
                SELECT pid, query FROM pg_stat_activity
                WHERE application_name = '{VICTIM}' AND ({which}) ORDER BY random() LIMIT 1
             ) AS victim",
        );
        let Some(row) = client.query_opt(&sql, &[]).await? else { return Ok(()) };
        let pid: i32 = row.get(0);
        self.add(kind, format!("{pid}: {}", row.get::<_, String>(1)));
        if crash {
            // Fails if the process has ended already.
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        Ok(())
    }
}
