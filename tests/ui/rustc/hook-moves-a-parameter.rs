//! A hook cannot take a parameter, because the next attempt needs it.

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn owned(tx: &mut Transaction<'_>, address: String) -> Result<(), Error> {
    tx.on_commit(async move { println!("welcome, {address}") });
    Ok(())
}

fn main() {}
