//! The transaction cannot outlive its attempt: rustc points at the parameter and at the line that keeps it.

use retry_runtime::{Error, Transaction, transactional};

struct Kept<'a> {
    tx: Option<&'a Transaction<'a>>,
}

#[transactional(allow_mut)]
async fn stored<'a>(tx: &'a Transaction<'a>, kept: &mut Kept<'a>) -> Result<(), Error> {
    kept.tx = Some(tx);
    Ok(())
}

#[transactional(deadline = "1s")]
async fn spawned(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tokio::spawn(async move { tx.batch_execute("SELECT 1").await });
    Ok(())
}

fn main() {}
