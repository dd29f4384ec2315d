//! Promise 8: the future is `Send` exactly when the body is.
#![allow(missing_docs)]

use std::marker::PhantomData;
use std::rc::Rc;

use deadpool_postgres::Pool;
use retry_runtime::{BoxFuture, Error, Transaction, transactional};
use retry_tests::Database;

#[transactional(deadline = "5s", unknown_commit = "resolve", isolation = "serializable")]
async fn sendable(tx: &mut Transaction<'_>, names: Vec<String>) -> Result<usize, Error> {
    for name in &names {
        tx.query("SELECT $1::text", &[name]).await?;
    }
    Ok(names.len())
}

#[transactional]
async fn bound_to_its_thread(tx: &mut Transaction<'_>) -> Result<usize, Error> {
    let counter = Rc::new(1);
    tx.query("SELECT 1", &[]).await?;
    Ok(*counter)
}

/// Calls itself through a function that names the future's type. Otherwise rustc cannot infer that the future is `Send`.
#[transactional]
async fn plant(tx: &mut Transaction<'_>, height: i32) -> Result<u64, Error> {
    let planted = tx.execute("INSERT INTO nodes VALUES ($1)", &[&height]).await?;
    if height == 0 {
        return Ok(planted);
    }
    Ok(planted + plant_below(tx, height - 1).await? + plant_below(tx, height - 1).await?)
}

fn plant_below<'a>(tx: &'a mut Transaction<'_>, height: i32) -> BoxFuture<'a, Result<u64, Error>> {
    Box::pin(plant(tx, height))
}

/// Finds out whether a type is `Send`. The inherent method exists only for `Send` types, and comes before the trait's.
struct SendCheck<T>(PhantomData<T>);

impl<T: Send> SendCheck<T> {
    #[expect(clippy::unused_self)]
    fn is_send(&self) -> bool {
        true
    }
}

trait NotSend {
    fn is_send(&self) -> bool {
        false
    }
}

impl<T> NotSend for SendCheck<T> {}

fn check<T>(_: &T) -> SendCheck<T> {
    SendCheck(PhantomData)
}

#[tokio::test]
async fn the_future_is_send_exactly_when_the_body_is() {
    let db = Database::create().await;
    let pool: Pool = db.pool(1);
    let future = sendable(&pool, vec!["a".to_owned()]);
    assert!(check(&future).is_send());
    assert_eq!(future.await.unwrap(), 1);
    let future = bound_to_its_thread(&pool);
    assert!(!check(&future).is_send());
    assert_eq!(future.await.unwrap(), 1);
}

#[tokio::test]
async fn a_function_that_calls_itself_can_be_spawned() {
    let db = Database::create().await;
    db.setup("CREATE TABLE nodes (height int NOT NULL)").await;
    let pool: Pool = db.pool(1);
    let planted = tokio::spawn(async move { plant(&pool, 3).await });
    assert_eq!(planted.await.unwrap().unwrap(), 15);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM nodes").await, 15);
}
