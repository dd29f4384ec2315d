//! sqlx with the defaults of its pool: a ping whenever a connection is taken and returned.

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::session::{SELECT, Session, Transaction, UPDATE};
use crate::environment::Cluster;

#[derive(Debug)]
pub(crate) struct Sqlx(pub(crate) PgPool);

/// A pool of `size` connections.
pub(crate) async fn pool(cluster: &Cluster, size: u32) -> anyhow::Result<PgPool> {
    let options = PgConnectOptions::new_without_pgpass()
        .socket(cluster.socket_folder())
        .username("postgres")
        .database("postgres");
    Ok(PgPoolOptions::new().max_connections(size).connect_with(options).await?)
}

impl Session for Sqlx {
    fn increment(&mut self, id: i32) -> Transaction<'_> {
        Box::pin(async move {
            let mut tx = self.0.begin().await?;
            let n: i64 = sqlx::query_scalar(SELECT).bind(id).fetch_one(&mut *tx).await?;
            sqlx::query(UPDATE).bind(id).bind(n + 1).execute(&mut *tx).await?;
            Ok(tx.commit().await?)
        })
    }
}
