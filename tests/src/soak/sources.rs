//! The sources of the calls' connections: pools, a source that reconnects, and a client.

use std::sync::Arc;
use std::time::Duration;

use bb8_postgres::PostgresConnectionManager;
use retry_runtime::{Pool, Reconnect, Source, WithCancel};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// The names of the sources, by number. The last one is the caller's own client.
pub(crate) const NAMES: [&str; 6] = ["deadpool", "deadpool of 2", "deadpool with cancel", "bb8", "reconnect", "client"];

/// The pools, each with its size.
pub(crate) struct Sources {
    config: Config,
    pools: [(Arc<dyn Pool>, usize); 5],
}

impl Sources {
    pub(crate) fn new(config: &Config) -> Self {
        let deadpool = |size| crate::pool(config, size);
        let manager = PostgresConnectionManager::new(config.clone(), NoTls);
        let bb8 = bb8::Pool::builder()
            .max_size(4)
            .test_on_check_out(false)
            .connection_timeout(Duration::from_secs(5))
            .build_unchecked(manager);
        let own = config.clone();
        let reconnect = Reconnect::new(move || {
            let config = own.clone();
            async move {
                let (client, connection) = config.connect(NoTls).await?;
                tokio::spawn(connection);
                Ok(client)
            }
        });
        let pools: [(Arc<dyn Pool>, usize); 5] = [
            (Arc::new(deadpool(6)), 6),
            (Arc::new(deadpool(2)), 2),
            (Arc::new(WithCancel::new(deadpool(4), config.clone(), NoTls)), 4),
            (Arc::new(bb8), 4),
            (Arc::new(reconnect), 1),
        ];
        Self { config: config.clone(), pools }
    }

    /// The source of this number. `own` is the caller's client. It is connected if it is missing or closed.
    pub(crate) async fn of<'a>(&'a self, number: usize, own: &'a mut Option<Client>) -> Source<'a> {
        if let Some((pool, _)) = self.pools.get(number) {
            return Source::from(pool);
        }
        if own.as_ref().is_some_and(Client::is_closed) {
            *own = None;
        }
        while own.is_none() {
            match self.config.connect(NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    *own = Some(client);
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        Source::from(own.as_mut().expect("connected"))
    }

    /// Takes a session from a pool, and reports what is wrong with it.
    pub(crate) async fn inspect(&self, number: usize) -> Option<String> {
        let (pool, _) = self.pools.get(number)?;
        let session = tokio::time::timeout(Duration::from_secs(5), pool.get()).await.ok()?.ok()?;
        let Ok(fault) = tokio::time::timeout(Duration::from_secs(5), fault_of(session.client())).await else {
            // The next borrower would have to wait for the reply to our query.
            session.discard();
            return None;
        };
        fault.map(|fault| format!("{} lends a session that is {fault}", NAMES[number]))
    }

    /// Takes all sessions from all pools, and reports what is wrong with them.
    pub(crate) async fn inspect_all(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (number, (pool, size)) in self.pools.iter().enumerate() {
            let mut sessions = Vec::new();
            for _ in 0..*size {
                let fault = match tokio::time::timeout(Duration::from_secs(20), pool.get()).await {
                    Ok(Ok(session)) => {
                        let fault = fault_of(session.client()).await.map(|fault| format!("a session that is {fault}"));
                        sessions.push(session);
                        fault
                    }
                    Ok(Err(error)) => Some(format!("an error: {error:?}")),
                    Err(_) => Some(format!("only {} of {size} sessions", sessions.len())),
                };
                faults.extend(fault.map(|fault| format!("{} lends {fault}", NAMES[number])));
            }
        }
        faults
    }
}

/// What is wrong with a session on loan. A closed connection is not a fault, because the pool cannot know of it.
async fn fault_of(client: &Client) -> Option<&'static str> {
    match client.simple_query("SELECT now() = statement_timestamp()").await {
        Ok(messages) => {
            let idle = |message: &_| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t"));
            (!messages.iter().any(idle)).then_some("inside a transaction")
        }
        Err(error) => {
            let aborted = error.code().is_some_and(|code| code.code() == "25P02");
            aborted.then_some("inside an aborted transaction")
        }
    }
}
