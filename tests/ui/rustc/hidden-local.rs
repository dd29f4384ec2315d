//! Names that the expansion declares are invisible to the body.

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn peek(_: &mut Transaction<'_>) -> Result<(), Error> {
    let _ = (&__run, &__tx, &source);
    Ok(())
}

fn main() {}
