//! diesel-async on deadpool with its defaults: a query whenever a connection is taken, and an unprepared `UPDATE`.

use diesel::prelude::*;
use diesel_async::pooled_connection::AsyncDieselConnectionManager;
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};

use super::session::{Session, Transaction};
use crate::environment::Cluster;

diesel::table! {
    counters (id) {
        id -> Integer,
        n -> BigInt,
    }
}

pub(crate) struct Diesel(pub(crate) Pool<AsyncPgConnection>);

/// A pool of `size` connections.
pub(crate) fn pool(cluster: &Cluster, size: usize) -> anyhow::Result<Pool<AsyncPgConnection>> {
    let host = cluster.socket_folder();
    let url = format!("host={} user=postgres dbname=postgres", host.display());
    Ok(Pool::builder(AsyncDieselConnectionManager::new(url)).max_size(size).build()?)
}

impl Session for Diesel {
    fn increment(&mut self, id: i32) -> Transaction<'_> {
        Box::pin(async move {
            let mut connection = self.0.get().await?;
            let transaction = connection.transaction(async |tx| {
                let before: i64 = counters::table.find(id).select(counters::n).first(tx).await?;
                diesel::update(counters::table.find(id)).set(counters::n.eq(before + 1)).execute(tx).await?;
                diesel::result::QueryResult::Ok(())
            });
            Ok(transaction.await?)
        })
    }
}
