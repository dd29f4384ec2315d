//! Error types: the runtime's own, `anyhow`, a box, a `String`, and a generic one.

use retry_runtime::{Error, Transaction, transactional};

use super::{Result, bank};

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
async fn text(tx: &Transaction<'_>, swallow: bool) -> Result<(), String> {
    match tx.batch_execute("broken").await {
        Err(error) if !swallow => Err(error.to_string()),
        _ => Ok(()),
    }
}

#[transactional]
async fn any<E: From<tokio_postgres::Error> + From<Error>>(tx: &Transaction<'_>) -> Result<(), E> {
    tx.batch_execute("broken").await?;
    Ok(())
}

#[transactional(deadline = "1m")]
async fn any_in_time<E>(tx: &Transaction<'_>) -> Result<(), E>
where
    E: From<tokio_postgres::Error> + From<Error>,
{
    tx.batch_execute("broken").await?;
    Ok(())
}

#[tokio::test]
async fn every_form_of_error_type_works() {
    let (_db, pool) = bank(1).await;
    assert!(matches!(of_the_runtime(&pool).await, Err(Error::Postgres(_))));
    assert!(anyhow(&pool).await.unwrap_err().is::<tokio_postgres::Error>());
    assert!(boxed(&pool).await.unwrap_err().is::<tokio_postgres::Error>());
    assert!(any::<anyhow::Error>(&pool).await.unwrap_err().is::<tokio_postgres::Error>());
    assert!(matches!(any_in_time::<Error>(&pool).await, Err(Error::Postgres(_))));
    let spawned = tokio::spawn({
        let pool = pool.clone();
        async move { (any::<Error>(&pool).await, any_in_time::<Error>(&pool).await) }
    });
    assert!(matches!(spawned.await.unwrap(), (Err(Error::Postgres(_)), Err(Error::Postgres(_)))));
    assert_eq!(text(&pool, false).await.unwrap_err(), "db error");
    assert_eq!(
        text(&pool, true).await.unwrap_err(),
        "a statement failed, so the transaction was rolled back: ERROR: syntax error at or near \"broken\""
    );
}
