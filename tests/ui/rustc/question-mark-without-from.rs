//! `?` converts to the error type that the function states.

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn parse(_tx: &mut Transaction<'_>, text: &str) -> Result<i64, Error> {
    Ok(text.parse::<i64>()?)
}

fn main() {}
