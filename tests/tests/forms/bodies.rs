//! Bodies: early returns, `?` with conversions, return types, nested and recursive calls.

use retry_runtime::{Source, Transaction, transactional};

use super::{BankError, CENTS, Result, bank};

#[transactional]
async fn early(tx: &mut Transaction<'_>, text: &str) -> Result<i64> {
    if text.is_empty() {
        return Ok(0);
    }
    let id: i64 = text.parse()?;
    match tx.query_opt(CENTS, &[&id]).await? {
        Some(row) => Ok(row.get(0)),
        None => Err(BankError::Stale),
    }
}

#[transactional]
async fn collected(_: &Transaction<'_>, ids: &[i64]) -> Result<Vec<i64>> {
    #![allow(clippy::unused_async)]
    use std::result::Result::{self, Ok};
    fn positive(id: i64) -> Result<i64, BankError> {
        if id < 0 { Err(BankError::Stale) } else { Ok(id) }
    }
    ids.iter().copied().map(positive).collect()
}

#[transactional]
async fn diverges(_: &Transaction<'_>) -> Result<i64> {
    panic!("in the body")
}

#[transactional]
async fn loops(tx: &Transaction<'_>) -> Result<u32> {
    'outer: loop {
        for n in 1.. {
            if n > tx.attempt() {
                break 'outer Ok(n);
            }
        }
    }
}

#[transactional]
async fn captured(_: &Transaction<'_>, ids: &[i64]) -> Result<impl Iterator<Item = i64>> {
    Ok(ids.iter().map(|id| id * 2))
}

#[transactional]
async fn precise(_: &Transaction<'_>, ids: &[i64]) -> Result<impl Iterator<Item = i64> + use<>> {
    Ok(std::iter::repeat_n(1, ids.len()))
}

#[transactional]
async fn inner(tx: &mut Transaction<'_>, id: i64) -> Result<i64> {
    Ok(tx.query_one("UPDATE accounts SET cents = cents + 1 WHERE id = $1 RETURNING cents", &[&id]).await?.get(0))
}

#[transactional]
async fn nested(tx: &mut Transaction<'_>) -> Result<i64> {
    let first = inner(&mut *tx, 1).await?;
    Ok(first + inner(tx, 1).await?)
}

#[transactional]
async fn countdown(tx: &mut Transaction<'_>, n: u32) -> Result<u32> {
    if n == 0 {
        return Ok(0);
    }
    Ok(1 + Box::pin(countdown(&mut *tx, n - 1)).await?)
}

/// Recursion through `impl Into<Source>` would hide from rustc that the future is `Send`. This form does not.
#[transactional]
async fn descend(tx: &mut Transaction<'_>, n: u32) -> Result<u32> {
    descend_within(tx, n).await
}

async fn descend_within(tx: &mut Transaction<'_>, n: u32) -> Result<u32> {
    tx.batch_execute("SELECT 1").await?;
    if n == 1 { Ok(1) } else { Ok(1 + Box::pin(descend_within(tx, n - 1)).await?) }
}

async fn twice<'s, S: Into<Source<'s>>>(first: S, second: S) -> Result<i64> {
    Ok(nested(first).await? + nested(second).await?)
}

#[tokio::test]
async fn every_form_of_body_runs() {
    let (_db, pool) = bank(1).await;
    assert_eq!(early(&pool, "").await.unwrap(), 0);
    assert_eq!(early(&pool, "1").await.unwrap(), 100);
    assert!(matches!(early(&pool, "one").await, Err(BankError::NotANumber(_))));
    assert!(matches!(early(&pool, "9").await, Err(BankError::Stale)));
    assert_eq!(collected(&pool, &[1, 2]).await.unwrap(), [1, 2]);
    assert_eq!(loops(&pool).await.unwrap(), 2);
    assert_eq!(captured(&pool, &[1, 2]).await.unwrap().sum::<i64>(), 6);
    let ids = precise(&pool, &[1, 2]).await.unwrap();
    assert_eq!(ids.sum::<i64>(), 2);
    assert_eq!(nested(&pool).await.unwrap(), 203);
    assert_eq!(countdown(&pool, 3).await.unwrap(), 3);
    assert_eq!(twice(&pool, &pool).await.unwrap(), 207 + 211);
    assert!(tokio::spawn(async move { diverges(&pool).await }).await.is_err());
}

#[tokio::test]
async fn every_form_of_call_can_be_spawned() {
    let (db, pool) = bank(2).await;
    let one = tokio::spawn({
        let (pool, ids) = (pool.clone(), vec![1]);
        async move { parameters_of(&pool, ids, "name").await }
    });
    let two = tokio::spawn({
        let pool = pool.clone();
        async move { descend(&pool, 2).await }
    });
    let mut client = db.client().await;
    let three = tokio::spawn(async move { nested(&mut client).await });
    assert_eq!(one.await.unwrap().unwrap(), 5);
    assert_eq!(two.await.unwrap().unwrap(), 2);
    assert_eq!(three.await.unwrap().unwrap(), 203);
}

#[transactional]
async fn parameters_of(tx: &mut Transaction<'_>, mut ids: Vec<i64>, name: &str) -> Result<usize> {
    let length: i32 = tx.query_one("SELECT length($1)", &[&name]).await?.get(0);
    ids.extend([1, 2, 3, 4].iter().take(usize::try_from(length).unwrap_or_default()));
    Ok(ids.len())
}
