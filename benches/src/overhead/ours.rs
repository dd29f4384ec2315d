//! `#[transactional]` on a client, on a pool, with many options, and with a sent statement.

use deadpool_postgres::Pool;
use retry_runtime::transactional;
use tokio_postgres::Client;

use super::session::{SELECT, Session, Statements, Transaction, UPDATE};

/// A session on a client, with statements prepared beforehand.
macro_rules! on_client {
    ($name:ident $(, $option:meta)*) => {
        #[derive(Debug)]
        pub(crate) struct $name(pub(crate) Client, pub(crate) Statements);

        impl Session for $name {
            fn increment(&mut self, id: i32) -> Transaction<'_> {
                #[transactional($($option),*)]
                async fn increment(
                    tx: &mut retry_runtime::Transaction<'_>,
                    statements: &Statements,
                    id: i32,
                ) -> anyhow::Result<()> {
                    let n: i64 = tx.query_one(&statements.select, &[&id]).await?.get(0);
                    tx.execute(&statements.update, &[&id, &(n + 1)]).await?;
                    Ok(())
                }
                Box::pin(increment(&mut self.0, &self.1, id))
            }
        }
    };
}

/// A session on a pool, with the pool's statement cache.
macro_rules! on_pool {
    ($name:ident $(, $option:meta)*) => {
        #[derive(Debug)]
        pub(crate) struct $name(pub(crate) Pool);

        impl Session for $name {
            fn increment(&mut self, id: i32) -> Transaction<'_> {
                #[transactional($($option),*)]
                async fn increment(tx: &mut retry_runtime::Transaction<'_>, id: i32) -> anyhow::Result<()> {
                    let n: i64 = tx.query_one(&tx.prepare_cached(SELECT).await?, &[&id]).await?.get(0);
                    tx.execute(&tx.prepare_cached(UPDATE).await?, &[&id, &(n + 1)]).await?;
                    Ok(())
                }
                Box::pin(increment(&self.0, id))
            }
        }
    };
}

on_client!(OnClient);
on_pool!(OnPool);
on_client!(WithDeadline, deadline = "10s");
on_pool!(WithDeadlineOnPool, deadline = "10s");
on_client!(Pipelined, begin = "pipelined");
on_pool!(PipelinedOnPool, begin = "pipelined");
on_pool!(EarlyRelease, early_release);
on_client!(Resolve, unknown_commit = "resolve");
on_client!(Token, unknown_commit = "token");
on_pool!(
    Safe,
    begin = "pipelined",
    isolation = "serializable",
    deadline = "10s",
    statement_timeout = "5s",
    lock_timeout = "1s",
    unknown_commit = "token"
);

/// A session on a client: the flights are `BEGIN` and `SELECT`, then `UPDATE` and `COMMIT`.
#[derive(Debug)]
pub(crate) struct TwoFlights(pub(crate) Client, pub(crate) Statements);

impl Session for TwoFlights {
    fn increment(&mut self, id: i32) -> Transaction<'_> {
        #[transactional(begin = "pipelined")]
        async fn increment(
            tx: &mut retry_runtime::Transaction<'_>,
            statements: &Statements,
            id: i32,
        ) -> anyhow::Result<()> {
            let n: i64 = tx.query_one(&statements.select, &[&id]).await?.get(0);
            tx.send(&statements.update, &[&id, &(n + 1)])?;
            Ok(())
        }
        Box::pin(increment(&mut self.0, &self.1, id))
    }
}
