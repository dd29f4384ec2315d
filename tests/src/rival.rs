//! A second session that provokes conflicts: serialization failures, deadlocks and lock conflicts. Also functions that
//! terminate, kill or wait for a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{CancelToken, Client, Error, NoTls};

use crate::Database;

/// A session that a test tells step by step to commit, to lock or to block.
#[derive(Debug)]
pub struct Rival {
    client: Arc<Client>,
    observer: Client,
    pid: i32,
}

impl Rival {
    /// Connects. The rival never looks for a deadlock itself, so the other session is always the victim.
    pub async fn connect(database: &Database) -> Self {
        let client = database.client().await;
        client.batch_execute("SET deadlock_timeout = '1h'").await.expect("a superuser may set deadlock_timeout");
        let pid = pid(&client).await;
        Self { client: client.into(), observer: database.client().await, pid }
    }

    /// Runs statements, which must not block.
    pub async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.expect(sql);
    }

    /// Starts a statement, and returns once it waits for a lock.
    pub async fn block_on(&self, sql: &'static str) -> JoinHandle<Result<(), Error>> {
        let client = self.client.clone();
        let running = tokio::spawn(async move { client.batch_execute(sql).await });
        wait_until(&self.observer, "wait_event_type = 'Lock'", self.pid).await;
        running
    }
}

/// Sends cancel requests for one connection in a loop, until it is dropped. Meanwhile the server may refuse connections.
#[derive(Debug)]
pub struct Cancels {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Cancels {
    /// Begins to send them.
    #[must_use]
    pub fn start(token: CancelToken) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                while !stopped.load(Ordering::Relaxed) {
                    // The server may refuse one if there are too many. The next may arrive.
                    let _ = token.cancel_query(NoTls).await;
                }
            });
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Cancels {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// The id of the server process of a connection.
pub async fn pid(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.expect("pg_backend_pid").get(0)
}

/// Terminates a session as an administrator would, and waits until its process has ended.
pub async fn terminate(observer: &Client, pid: i32) {
    observer.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.expect("pg_terminate_backend");
    while observer
        .query_opt("SELECT 1 FROM pg_stat_activity WHERE pid = $1", &[&pid])
        .await
        .expect("observer")
        .is_some()
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Kills a server process, as the kernel does if memory runs out. The whole server restarts.
pub fn kill(pid: i32) {
    assert!(kill_if_running(pid), "no such process: {pid}");
}

/// Like [`kill`]. Returns whether there was such a process.
#[must_use]
pub fn kill_if_running(pid: i32) -> bool {
    std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill").success()
}

/// Waits until a condition on the session's row in `pg_stat_activity` holds.
pub async fn wait_until(observer: &Client, condition: &str, pid: i32) {
    let sql = format!("SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND {condition}");
    while observer.query_opt(&sql, &[&pid]).await.expect("observer").is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
