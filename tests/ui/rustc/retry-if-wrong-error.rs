//! `retry_if` is asked about the error that the function returns.

use retry_runtime::{Error, Transaction, transactional};

fn is_stale(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::Other
}

#[transactional(retry_if = is_stale)]
async fn by_path(_tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(())
}

#[transactional(retry_if = |error| error.is_stale())]
async fn by_closure(_tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(())
}

fn main() {}
