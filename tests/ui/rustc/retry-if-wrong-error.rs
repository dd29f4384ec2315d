//! `retry_if` takes the error that the function returns.

use retry_runtime::{Error, Transaction, transactional};

fn is_stale(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::Other
}

#[transactional(retry_if = is_stale)]
async fn by_path(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

#[transactional(retry_if = |error| error.is_stale())]
async fn by_closure(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
