//! What the runtime keeps in the database: one table, in a schema of its own.

use tokio_postgres::{Client, Error as PgError};

use crate::identity::last_row;

/// What [`install`] runs, for migrations of your own: the schema `transactional`, and in it the table `commits` of
/// `unknown_commit = "token"`. Run again, it changes nothing.
pub const INSTALL_SQL: &str = "\
CREATE SCHEMA IF NOT EXISTS transactional;
CREATE TABLE IF NOT EXISTS transactional.commits (
    token pg_catalog.uuid PRIMARY KEY,
    committed boolean NOT NULL DEFAULT true,
    at timestamp with time zone NOT NULL DEFAULT current_timestamp
);
";

/// Makes the schema `transactional` and its table `commits`, unless they are there: what `unknown_commit = "token"`
/// needs, once in each database. [`INSTALL_SQL`] does the same in a migration.
///
/// Every process may call it when it starts, and several at the same time. Where all is there, the role needs no
/// privilege to create anything.
///
/// A role that calls such functions needs `USAGE` of the schema, and `SELECT` and `INSERT` on the table. Without them,
/// or without the table, a call fails in `COMMIT` with the server's error, and is rolled back. Prune the table as you
/// like, of what is older than any call lasts:
///
/// ```sql
/// GRANT USAGE ON SCHEMA transactional TO app;
/// GRANT SELECT, INSERT ON transactional.commits TO app;
/// DELETE FROM transactional.commits WHERE at < now() - interval '1 day';
/// ```
///
/// # Errors
/// The database's own, for want of a privilege, say.
///
/// # Cancellation
/// The future may be dropped at any time. All of it is made then, or nothing.
pub async fn install(client: &Client) -> Result<(), PgError> {
    // `IF NOT EXISTS` does not spare the privilege to create.
    let sql = match find(client).await? {
        Found::Table => return Ok(()),
        Found::Schema => INSTALL_SQL.split_once(';').map_or(INSTALL_SQL, |(_, table)| table),
        Found::Nothing => INSTALL_SQL,
    };
    match client.batch_execute(sql).await {
        // `IF NOT EXISTS` does not see what another session is making at the same time: it fails once that is there.
        Err(error) if !matches!(find(client).await, Ok(Found::Table)) => Err(error),
        _ => Ok(()),
    }
}

enum Found {
    Nothing,
    Schema,
    Table,
}

async fn find(client: &Client) -> Result<Found, PgError> {
    let sql = "SELECT pg_catalog.to_regnamespace('transactional'), pg_catalog.to_regclass('transactional.commits')";
    // No prepared statement: a pooler may stand between.
    let messages = client.simple_query(sql).await?;
    let there = |index| last_row(&messages).and_then(|row| row.get(index)).is_some();
    Ok(match (there(0), there(1)) {
        (_, true) => Found::Table,
        (true, false) => Found::Schema,
        (false, false) => Found::Nothing,
    })
}
