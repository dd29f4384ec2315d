//! The tables that the runtime needs in the database, in a schema of its own.

use crate::driver::{self, Client, DriverError};

/// The SQL of [`install`], for your own migrations. It creates the schema `transactional` and its table `commits`, which
/// `unknown_commit = "token"` needs. If both exist, it changes nothing.
///
/// ```
/// println!("-- migrations/0007_transactional.sql\n{}", retry_runtime::INSTALL_SQL);
/// ```
pub const INSTALL_SQL: &str = "\
CREATE SCHEMA IF NOT EXISTS transactional;
CREATE TABLE IF NOT EXISTS transactional.commits (
    token pg_catalog.uuid PRIMARY KEY,
    committed boolean NOT NULL DEFAULT true,
    at timestamp with time zone NOT NULL DEFAULT current_timestamp
);
";

/// Creates the schema `transactional` and its table `commits`, unless they exist. `unknown_commit = "token"` needs them,
/// once in each database. [`INSTALL_SQL`] does the same in a migration.
///
/// Every process may call it when it starts, also at the same time. If the table exists, the role needs no privilege to
/// create anything.
///
/// ```
/// async fn start(client: &tokio_postgres::Client) -> Result<(), tokio_postgres::Error> {
///     retry_runtime::install(client).await
/// }
/// ```
///
/// A role that calls such functions needs `USAGE` on the schema, and `SELECT` and `INSERT` on the table. Without them,
/// or without the table, a call fails in `COMMIT` with the server's error, and is rolled back. Delete rows that are older
/// than your longest call:
///
/// ```sql
/// GRANT USAGE ON SCHEMA transactional TO app;
/// GRANT SELECT, INSERT ON transactional.commits TO app;
/// DELETE FROM transactional.commits WHERE at < now() - interval '1 day';
/// ```
///
/// # Errors
/// Those of the database: a missing privilege, for example.
///
/// # Cancel safety
/// The future may be dropped at any time. The next call creates what is missing.
pub async fn install(client: &Client) -> Result<(), DriverError> {
    let found = find(client).await?;
    // One message each, because Aurora DSQL refuses two of them in one transaction.
    for (sql, created) in INSTALL_SQL.split_inclusive(';').zip([Found::Schema, Found::Table]) {
        // Even with `IF NOT EXISTS`, the server asks for the privilege to create.
        if found < created {
            create(client, sql, created, find).await?;
        }
    }
    Ok(())
}

/// How many tables there are for `queue = "server"`.
pub(crate) const QUEUES: u64 = 64;

/// The SQL of [`install_queues`], for your own migrations. It creates the schema `transactional` and its empty tables
/// `queue_00` to `queue_63`, which `queue = "server"` locks. What exists, it leaves as it is.
///
/// ```
/// println!("-- migrations/0008_transactional_queues.sql\n{}", retry_runtime::INSTALL_QUEUES_SQL);
/// ```
pub const INSTALL_QUEUES_SQL: &str = "\
CREATE SCHEMA IF NOT EXISTS transactional;
DO $$
BEGIN
    FOR number IN 0..63 LOOP
        EXECUTE pg_catalog.format(
            'CREATE TABLE IF NOT EXISTS transactional.queue_%s ()', pg_catalog.to_char(number, 'FM00')
        );
    END LOOP;
END
$$;
";

/// Creates the schema `transactional` and the tables `queue_00` to `queue_63`, unless they exist. `queue = "server"` needs
/// them, once in each database. [`INSTALL_QUEUES_SQL`] does the same in a migration.
///
/// Every process may call it when it starts, also at the same time. If the tables exist, the role needs no privilege to
/// create anything.
///
/// ```
/// async fn start(client: &tokio_postgres::Client) -> Result<(), tokio_postgres::Error> {
///     retry_runtime::install_queues(client).await
/// }
/// ```
///
/// The tables stay empty. A role that calls such functions needs `USAGE` on the schema, and one of `UPDATE`, `DELETE` and
/// `TRUNCATE` on the tables, or from PostgreSQL 17 on `MAINTAIN`. Without them, or without the tables, a call fails with
/// [`Error::QueueUnsupported`](crate::Error::QueueUnsupported).
///
/// ```sql
/// GRANT USAGE ON SCHEMA transactional TO app;
/// GRANT UPDATE ON ALL TABLES IN SCHEMA transactional TO app;
/// ```
///
/// # Errors
/// Those of the database: a missing privilege, for example.
///
/// # Cancel safety
/// The future may be dropped at any time. The next call creates what is missing.
pub async fn install_queues(client: &Client) -> Result<(), DriverError> {
    let found = find_queues(client).await?;
    let schema = INSTALL_QUEUES_SQL.find(';').map_or(0, |end| end + 1);
    let (schema, tables) = INSTALL_QUEUES_SQL.split_at(schema);
    for (sql, created) in [(schema, Found::Schema), (tables, Found::Table)] {
        if found < created {
            create(client, sql, created, find_queues).await?;
        }
    }
    Ok(())
}

async fn create(
    client: &Client,
    sql: &str,
    created: Found,
    find: impl AsyncFn(&Client) -> Result<Found, DriverError>,
) -> Result<(), DriverError> {
    match driver::run(client, sql).await {
        // `IF NOT EXISTS` does not see what another session is creating at the same time, and then fails.
        Err(error) if !find(client).await.is_ok_and(|found| found >= created) => Err(error),
        _ => Ok(()),
    }
}

#[derive(PartialEq, PartialOrd)]
enum Found {
    Nothing,
    Schema,
    /// All tables.
    Table,
}

async fn find(client: &Client) -> Result<Found, DriverError> {
    found(client, "pg_catalog.to_regclass('transactional.commits')").await
}

async fn find_queues(client: &Client) -> Result<Found, DriverError> {
    // One aggregate for 64 tables: it is null if any of them is missing.
    let all = "(SELECT true FROM pg_catalog.generate_series(0, 63) AS number \
         HAVING pg_catalog.count(pg_catalog.to_regclass(pg_catalog.concat('transactional.queue_', \
         pg_catalog.to_char(number, 'FM00')))) OPERATOR(pg_catalog.=) 64)";
    found(client, all).await
}

/// `tables`: an expression that is null if a table is missing.
async fn found(client: &Client, tables: &str) -> Result<Found, DriverError> {
    let sql = format!("SELECT pg_catalog.to_regnamespace('transactional'), {tables}");
    let row = driver::ask(client, &sql).await?;
    let exists = |index| row.as_ref().and_then(|row| row.get(index)).is_some();
    Ok(match (exists(0), exists(1)) {
        (_, true) => Found::Table,
        (true, false) => Found::Schema,
        (false, false) => Found::Nothing,
    })
}
