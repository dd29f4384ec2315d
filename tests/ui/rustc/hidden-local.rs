//! What the expansion declares is invisible to the body.

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn peek(_tx: &mut Transaction<'_>) -> Result<(), Error> {
    let _ = &__run;
    let _ = &__tx;
    let _ = &__source;
    Ok(())
}

fn main() {}
