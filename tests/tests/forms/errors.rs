//! Error types: the runtime's own, `anyhow`, a box, and a text.

use retry_runtime::{Error, Transaction, transactional};

use super::{Result, bank};

/// `String` has no `From<retry_runtime::Error>`, and nobody but the runtime could give it one.
#[derive(Debug, PartialEq)]
struct Text(String);

impl<E: std::error::Error> From<E> for Text {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

#[transactional]
async fn of_the_runtime(tx: &Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("broken").await?;
    Ok(())
}

#[transactional]
async fn anyhow(tx: &Transaction<'_>) -> anyhow::Result<()> {
    tx.batch_execute("broken").await?;
    anyhow::bail!("unreachable")
}

#[transactional]
async fn boxed(tx: &Transaction<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    tx.batch_execute("broken").await?;
    Err("unreachable".into())
}

#[transactional]
async fn text(tx: &Transaction<'_>) -> Result<(), Text> {
    Ok(tx.batch_execute("broken").await?)
}

#[tokio::test]
async fn run() {
    let (_db, pool) = bank(1).await;
    assert!(matches!(of_the_runtime(&pool).await, Err(Error::Postgres(_))));
    assert!(anyhow(&pool).await.unwrap_err().is::<tokio_postgres::Error>());
    assert!(boxed(&pool).await.unwrap_err().is::<tokio_postgres::Error>());
    assert!(text(&pool).await.unwrap_err().0.starts_with("db error"));
}
