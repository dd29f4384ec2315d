//! The body cannot reach the retry loop.

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn transfer(_tx: &mut Transaction<'_>, done: bool) -> Result<(), Error> {
    if done {
        break;
    }
    Ok(())
}

fn main() {}
