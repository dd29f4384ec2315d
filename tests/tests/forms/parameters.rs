//! Parameters: the transaction, patterns, `mut`, generics and lifetimes.

use std::fmt::Display;

use retry_runtime::{Transaction, transactional};

use super::{BankError, CENTS, Result, bank};

#[transactional]
async fn by_mut(tx: &mut Transaction<'_>, id: i64) -> Result<i64> {
    Ok(tx.query_one(CENTS, &[&id]).await?.get(0))
}

#[transactional]
async fn by_ref(conn: &Transaction<'_>, id: i64) -> Result<i64> {
    Ok(conn.query_one(CENTS, &[&id]).await?.get(0))
}

#[transactional]
async fn rebound(mut tx: &mut Transaction<'_>, id: i64) -> Result<i64> {
    fn same<'t, 'a>(tx: &'t mut Transaction<'a>) -> &'t mut Transaction<'a> {
        tx
    }
    tx = same(tx);
    Ok(tx.query_one(CENTS, &[&id]).await?.get(0))
}

#[transactional]
async fn unused(_: &mut Transaction<'_>) -> Result<i64> {
    Ok(1)
}

#[transactional]
async fn unused_name(_tx: &Transaction<'_>) -> Result<i64> {
    Ok(2)
}

#[transactional]
async fn patterns(_: &Transaction<'_>, (a, [_, b]): (i64, [i64; 2]), (ref c, _): (i64, String)) -> Result<i64> {
    Ok(a + b + c)
}

#[transactional]
async fn attributes(
    #[allow(unused_variables)] tx: &Transaction<'_>,
    #[allow(unused_variables)] a: i64,
    #[cfg(any())] mut b: Missing,
    #[cfg(not(any()))] mut c: i64,
) -> Result<i64> {
    c += 1;
    Ok(c)
}

#[transactional]
async fn raw(r#type: &Transaction<'_>, mut r#match: i64) -> Result<i64> {
    r#match += i64::from(r#type.attempt());
    Ok(r#match)
}

#[transactional]
async fn generic<'a, T, const N: usize>(
    tx: &mut Transaction<'_>,
    names: [T; N],
    separator: &'a str,
    also: impl Fn(&str) -> usize,
) -> Result<(usize, &'a str)>
where
    T: Display,
{
    let joined = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator);
    let length: i32 = tx.query_one("SELECT length($1)", &[&joined]).await?.get(0);
    Ok((also(&joined) + usize::try_from(length).unwrap_or_default(), separator))
}

#[transactional]
async fn lifetimes<'a, 'b: 'a>(_tx: &mut Transaction<'b>, name: &'a str, _: &'b str) -> Result<&'a str> {
    Ok(name)
}

/// Every attempt gets the `mut` parameters as the caller passed them.
#[transactional(retry_if = BankError::is_stale)]
async fn mutable(
    tx: &Transaction<'_>,
    mut ids: Vec<i64>,
    (mut low, high): (i64, i64),
    mut name: &str,
    mut limit: impl FnMut() -> i64 + Clone,
) -> Result<(Vec<i64>, i64, String, i64)> {
    ids.push(tx.attempt().into());
    low += 1;
    name = &name[1..];
    let limit = limit();
    if tx.attempt() < 3 {
        return Err(BankError::Stale);
    }
    Ok((ids, low + high, name.to_owned(), limit))
}

#[transactional(allow_mut, retry_if = BankError::is_stale)]
async fn shared(tx: &Transaction<'_>, attempts: &mut Vec<u32>, (ref mut count, _): (u32, u32)) -> Result<u32> {
    attempts.push(tx.attempt());
    *count += 1;
    if tx.attempt() == 1 { Err(BankError::Stale) } else { Ok(*count) }
}

#[tokio::test]
async fn every_form_of_parameter_works() {
    let (db, pool) = bank(1).await;
    let mut client = db.client().await;
    assert_eq!(by_mut(&pool, 1).await.unwrap(), 100);
    assert_eq!(by_ref(&mut client, 1).await.unwrap(), 100);
    assert_eq!(rebound(&pool, 1).await.unwrap(), 100);
    assert_eq!(unused(&pool).await.unwrap(), 1);
    assert_eq!(unused_name(&pool).await.unwrap(), 2);
    assert_eq!(patterns(&pool, (1, [2, 3]), (4, String::new())).await.unwrap(), 8);
    assert_eq!(attributes(&pool, 1, 2).await.unwrap(), 3);
    assert_eq!(raw(&pool, 1).await.unwrap(), 2);
    assert_eq!(generic(&pool, ["a", "b"], ", ", str::len).await.unwrap(), (8, ", "));
    assert_eq!(lifetimes(&pool, "a", "b").await.unwrap(), "a");
}

#[tokio::test]
async fn mut_parameters_are_cloned_for_each_attempt() {
    let (_db, pool) = bank(1).await;
    let mut calls = 0;
    let count = move || {
        calls += 1;
        calls
    };
    let (ids, sum, name, calls) = mutable(&pool, vec![7], (10, 20), "name", count).await.unwrap();
    assert_eq!((ids, sum, name.as_str(), calls), (vec![7, 3], 31, "ame", 1));
}

#[tokio::test]
async fn with_allow_mut_attempts_share_a_mut_parameter() {
    let (_db, pool) = bank(1).await;
    let mut attempts = Vec::new();
    assert_eq!(shared(&pool, &mut attempts, (5, 0)).await.unwrap(), 7);
    assert_eq!(attempts, [1, 2]);
}
