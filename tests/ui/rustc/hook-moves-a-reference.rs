//! `move` moves the reference into the hook, not what it refers to.

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn borrowed(tx: &mut Transaction<'_>, address: &str) -> Result<(), Error> {
    tx.on_commit(async move { println!("welcome, {address}") });
    Ok(())
}

fn main() {}
