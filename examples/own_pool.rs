//! A connection pool of your own: `Pool` and `Session` for a pool that the runtime does not know.
//!
//! `Pool::get` lends a session, and says the class of its own failures: a timeout is `Class::Capacity`, which is
//! retried. A session that is dropped goes back to the pool. A session that the runtime discards is closed instead,
//! because its connection is broken or may still be in a transaction.
//!
//! Prints:
//!
//! ```text
//! 80 tasks made a deposit each, on 2 connections: 80 cents
//! its connection was terminated: attempt 2 committed
//! connections in the pool: 1
//! while both sessions are lent: class capacity, 3 attempts
//! ```

use std::sync::{Arc, Mutex};
use std::time::Duration;

use retry_runtime::{BoxFuture, Error, History, Pool, PoolError, Session, Transaction, transactional};
use retry_tests::Database;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls};

/// At most two connections, opened when they are first needed.
struct TinyPool {
    config: Config,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Client>>>,
    max_wait: Duration,
}

impl TinyPool {
    fn new(config: &Config, max_wait: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(2));
        Self { config: config.clone(), permits, idle: Arc::default(), max_wait }
    }

    async fn connect(&self) -> Result<Client, PoolError> {
        let (client, connection) = self.config.connect(NoTls).await?; // `?` asks the server's error for the class
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Pool for TinyPool {
    /// If this future is dropped, the permit is free again.
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
        Box::pin(async {
            let permit = timeout(self.max_wait, self.permits.clone().acquire_owned()).await;
            let permit = permit.map_err(|_| PoolError::timeout("all sessions are lent"))?.map_err(PoolError::closed)?;
            let idle = self.idle.lock().expect("not poisoned").pop();
            let client = match idle {
                Some(client) if !client.is_closed() => client,
                _ => self.connect().await?,
            };
            Ok(Box::new(Lent { client: Some(client), idle: self.idle.clone(), _permit: permit }) as Box<dyn Session>)
        })
    }
}

/// A connection on loan. Once it is given back, its permit is free.
struct Lent {
    /// `None` if it is discarded.
    client: Option<Client>,
    idle: Arc<Mutex<Vec<Client>>>,
    _permit: OwnedSemaphorePermit,
}

impl Session for Lent {
    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is not discarded")
    }

    fn discard(mut self: Box<Self>) {
        self.client = None; // a client that is dropped closes its connection
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.idle.lock().expect("not poisoned").extend(self.client.take());
    }
}

/// Returns the number of the attempt that committed.
#[transactional]
async fn deposit(tx: &mut Transaction<'_>, is_unlucky: bool) -> Result<u32, Error> {
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    if is_unlucky && tx.attempt() == 1 {
        tx.execute("SELECT pg_terminate_backend(pg_backend_pid())", &[]).await?;
    }
    Ok(tx.attempt())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let database = Database::create().await;
    database.accounts(1, 0).await;
    let pool = Arc::new(TinyPool::new(database.config(), Duration::from_secs(30)));

    let mut tasks = JoinSet::new();
    for _ in 0..80 {
        let pool = pool.clone();
        tasks.spawn(async move { deposit(&pool, false).await });
    }
    tasks.join_all().await.into_iter().collect::<Result<Vec<u32>, Error>>()?;
    let connections = pool.idle.lock().expect("not poisoned").len();
    println!("80 tasks made a deposit each, on {connections} connections: {} cents", database.cents(1).await);
    println!("its connection was terminated: attempt {} committed", deposit(&pool, true).await?);
    println!("connections in the pool: {}", pool.idle.lock().expect("not poisoned").len());

    let busy = TinyPool::new(database.config(), Duration::from_millis(50));
    let (_first, _second) = (busy.get().await?, busy.get().await?);
    let error = deposit(&busy, false).await.expect_err("none is free");
    let attempts = error.history().map_or(1, History::attempts);
    println!("while both sessions are lent: class {}, {attempts} attempts", error.class());
    Ok(())
}
