//! A hook outlives the body, so it cannot borrow what the body borrows.

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn borrowed(tx: &mut Transaction<'_>, address: &str) -> Result<(), Error> {
    tx.on_commit(async { println!("welcome, {address}") });
    Ok(())
}

fn main() {}
