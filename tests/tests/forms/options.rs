//! Options whose values are constants, paths or other expressions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use deadpool_postgres::Pool;
use retry_runtime::{Transaction, transactional};
use tokio::sync::Mutex;

use super::{BankError, Result, bank};

mod limits {
    use std::time::Duration;

    pub(super) const RETRIES: u32 = 1;
    pub(super) const DELAY: Duration = Duration::from_micros(10);
}

mod reexported {
    pub(super) use retry_runtime as runtime;
}

fn is_third(error: &BankError, attempts: &AtomicU32) -> bool {
    attempts.fetch_add(1, Ordering::Relaxed) < 2 && error.is_stale()
}

#[transactional(retries = limits::RETRIES, deadlock_retries = 9, base_delay = limits::DELAY, max_delay = "20us")]
#[must_use = "returns the number of attempts"]
#[allow(clippy::unused_async)]
async fn constants(tx: &Transaction<'_>) -> Result<u32> {
    Ok(tx.attempt())
}

#[transactional(retry_if = |error| is_third(error, attempts), name = "closure")]
async fn closure(_: &Transaction<'_>, attempts: &AtomicU32) -> Result<()> {
    Err(BankError::Stale)
}

#[cfg(not(any()))]
#[transactional(crate = reexported::runtime)]
async fn renamed(tx: &Transaction<'_>) -> Result<u32> {
    Ok(tx.attempt())
}

#[transactional(source = &*pool)]
async fn from_a_parameter(tx: &Transaction<'_>, pool: Arc<Pool>) -> Result<u32> {
    Ok(tx.attempt())
}

#[transactional(source = &mut *client, allow_mut)]
async fn on_a_client(tx: &Transaction<'_>, client: &mut tokio_postgres::Client) -> Result<u32> {
    Ok(tx.attempt())
}

/// The guard lives as long as the call.
#[transactional(source = &mut *client.lock().await)]
async fn on_a_shared_client(tx: &Transaction<'_>, client: &Mutex<tokio_postgres::Client>) -> Result<u32> {
    Ok(tx.attempt())
}

#[tokio::test]
async fn every_form_of_option_value_works() {
    let (db, pool) = bank(1).await;
    let attempts = AtomicU32::new(0);
    assert!(closure(&pool, &attempts).await.is_err());
    assert_eq!(attempts.into_inner(), 3);
    assert_eq!(constants(&pool).await.unwrap(), 1);
    assert_eq!(renamed(&pool).await.unwrap(), 1);
    assert_eq!(from_a_parameter(Arc::new(pool)).await.unwrap(), 1);
    assert_eq!(on_a_shared_client(&Mutex::new(db.client().await)).await.unwrap(), 1);
    assert_eq!(on_a_client(&mut db.client().await).await.unwrap(), 1);
}
