//! The adapter to tokio-postgres: what the retry loop needs of a driver, and nothing else.
//!
//! The loop (`call`), the look-up of outcomes (`commit`) and the clean-up of sessions name no driver. They use the items
//! of this module: a second driver would provide the same.

mod commit_reply;
mod failure;
mod reply;

use tokio_postgres::SimpleQueryMessage;
pub(crate) use tokio_postgres::{Client, Error as DriverError, SimpleQueryRow as Row};

pub(crate) use self::commit_reply::{CommitReply, Flush};
#[cfg(feature = "deadpool")]
pub(crate) use self::failure::class_of_pool;
pub use self::failure::classify;
pub(crate) use self::failure::{failure_in, failure_of};
pub(crate) use self::reply::Reply;

/// What errors call a transaction that other code began, because it has no function's name.
pub(crate) const TRANSACTION: &str = "tokio_postgres::Transaction";

/// Runs statements and waits for their end.
pub(crate) async fn run(client: &Client, sql: &str) -> Result<(), DriverError> {
    client.batch_execute(sql).await
}

/// Runs statements and returns the last row that they gave. Prepares nothing, so it also works through a pooler.
pub(crate) async fn ask(client: &Client, sql: &str) -> Result<Option<Row>, DriverError> {
    let messages = client.simple_query(sql).await?;
    Ok(messages.into_iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    }))
}
