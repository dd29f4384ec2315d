//! The rows of a sent statement: they are dropped, and `send_expecting` checks their number.

use super::*;

/// More rows than the driver buffers. It reads no later reply before they are taken.
#[transactional]
async fn many_rows(tx: &mut Transaction<'_>, how: &str) -> Result<i32, Error> {
    const ROWS: &str = "SELECT repeat('x', 100) FROM generate_series(1, 100000)";
    let rows = tx.prepare_cached(ROWS).await?;
    match how {
        "at the end" => {}
        "awaited" => {
            tx.send(&rows, &[])?;
            return Ok(tx.query_one("SELECT 1", &[]).await?.get(0));
        }
        "driver's client" => {
            tx.send(&rows, &[])?;
            return Ok((**tx).query_one("SELECT 1", &[]).await?.get(0));
        }
        "savepoint" => {
            let savepoint = tx.transaction().await?;
            savepoint.send(&rows, &[])?;
            let one = savepoint.query_one("SELECT 1", &[]).await?.get(0);
            savepoint.send(&rows, &[])?;
            savepoint.commit().await?;
            return Ok(one);
        }
        "nested" => {
            tx.send(&rows, &[])?;
            return Box::pin(many_rows(&mut *tx, "awaited")).await;
        }
        "own error" => {
            tx.send(&rows, &[])?;
            return Err(own_error());
        }
        _ => unreachable!("{how}"),
    }
    tx.send(&rows, &[])?;
    Ok(1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_dropped() {
    let db = database().await;
    let pool = db.pool(1);
    for how in ["at the end", "awaited", "driver's client", "savepoint", "nested"] {
        let call = timeout(SOON, many_rows(&pool, how)).await;
        assert_eq!(call.unwrap_or_else(|_| panic!("{how} hangs")).unwrap(), 1);
    }
    let call = timeout(SOON, many_rows(&pool, "own error")).await.expect("the rollback hangs");
    assert!(matches!(call, Err(Error::Pool(_))), "{call:?}");
    let mut client = db.client().await;
    let mut tx = client.transaction().await.unwrap();
    assert_eq!(timeout(SOON, many_rows(&mut tx, "at the end")).await.expect("it hangs").unwrap(), 1);
}

/// Takes this much from account 1, and checks that it had that much.
async fn take(tx: &Transaction<'_>, cents: i64) -> Result<(), Error> {
    let take = tx.prepare_cached("UPDATE accounts SET cents = cents - $1 WHERE id = 1 AND cents >= $1").await?;
    Ok(tx.send_expecting(1, &take, &[&cents])?)
}

#[transactional]
async fn take_nested(tx: &mut Transaction<'_>, cents: i64) -> Result<(), Error> {
    take(tx, cents).await
}

#[transactional(begin = "pipelined")]
async fn take_from(tx: &mut Transaction<'_>, cents: i64, how: &str) -> Result<(), Error> {
    match how {
        "plain" => take(tx, cents).await?,
        "then awaited" => {
            take(tx, cents).await?;
            tx.execute("UPDATE accounts SET cents = 0 WHERE id = 2", &[]).await?;
        }
        "own error" => {
            take(tx, cents).await?;
            return Err(own_error());
        }
        "nested" => take_nested(&mut *tx, cents).await?,
        "before a nested call" => {
            take(tx, cents).await?;
            take_nested(&mut *tx, 1).await?;
        }
        "forgiven" => {
            let error = take_nested(&mut *tx, cents).await.unwrap_err();
            assert!(matches!(error, Error::UnexpectedRows { expected: 1, found: 0, .. }), "{error:?}");
            take(tx, 1).await?;
        }
        _ => unreachable!("{how}"),
    }
    Ok(())
}

#[tokio::test]
async fn an_unexpected_number_of_rows_rolls_back() {
    let db = database().await;
    let pool = db.pool(1);
    for how in ["plain", "then awaited", "nested", "before a nested call"] {
        let events = Events::capture();
        let error = take_from(&pool, 101, how).await.unwrap_err();
        assert!(matches!(error, Error::UnexpectedRows { expected: 1, found: 0, .. }), "{how}: {error:?}");
        assert_eq!(cents(&db).await, (100, 100), "{how}");
        assert_eq!(events.all().len(), 0, "{how}: {events:?}");
    }
    assert!(matches!(take_from(&pool, 101, "own error").await, Err(Error::Pool(_))));
    take_from(&pool, 101, "forgiven").await.unwrap();
    take_from(&pool, 9, "plain").await.unwrap();
    take_from(&pool, 10, "nested").await.unwrap();
    assert_eq!(cents(&db).await, (80, 100));
    let mut client = db.client().await;
    let mut tx = client.transaction().await.unwrap();
    let error = take_from(&mut tx, 101, "plain").await.unwrap_err();
    assert!(matches!(error, Error::UnexpectedRows { expected: 1, found: 0, .. }), "{error:?}");
    take_from(&mut tx, 20, "plain").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(cents(&db).await, (60, 100));
    assert_eq!(error.to_string(), "a statement affected 0 rows instead of 1, so the transaction was rolled back");
}
