//! Hand-written transactions on tokio-postgres and deadpool, and the same retried by backon.

use backon::{ExponentialBuilder, RetryableWithContext};
use deadpool_postgres::Pool;
use tokio_postgres::{Client, Error};

use super::session::{SELECT, Session, Statements, Transaction, UPDATE};

/// Only tokio-postgres: the baseline.
#[derive(Debug)]
pub(crate) struct Raw(pub(crate) Client, pub(crate) Statements);

impl Session for Raw {
    fn increment(&mut self, id: i32) -> Transaction<'_> {
        Box::pin(async move { Ok(increment(&mut self.0, &self.1, id).await?) })
    }
}

/// The same, retried if it fails.
#[derive(Debug)]
pub(crate) struct Backon(pub(crate) Client, pub(crate) Statements);

impl Session for Backon {
    fn increment<'a>(&'a mut self, id: i32) -> Transaction<'a> {
        let Self(client, statements) = self;
        let statements = &*statements;
        let attempt = move |client: &'a mut Client| async move {
            let result = increment(&mut *client, statements, id).await;
            (client, result)
        };
        Box::pin(async move { Ok(attempt.retry(ExponentialBuilder::default()).context(client).await.1?) })
    }
}

async fn increment(client: &mut Client, statements: &Statements, id: i32) -> Result<(), Error> {
    let tx = client.transaction().await?;
    let n: i64 = tx.query_one(&statements.select, &[&id]).await?.get(0);
    tx.execute(&statements.update, &[&id, &(n + 1)]).await?;
    tx.commit().await
}

/// deadpool, with its statement cache.
#[derive(Debug)]
pub(crate) struct Deadpool(pub(crate) Pool);

impl Session for Deadpool {
    fn increment(&mut self, id: i32) -> Transaction<'_> {
        Box::pin(async move {
            let mut client = self.0.get().await?;
            let tx = client.transaction().await?;
            let n: i64 = tx.query_one(&tx.prepare_cached(SELECT).await?, &[&id]).await?.get(0);
            tx.execute(&tx.prepare_cached(UPDATE).await?, &[&id, &(n + 1)]).await?;
            Ok(tx.commit().await?)
        })
    }
}
