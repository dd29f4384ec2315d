//! rustc names the bound `From<Error>`, and none of the runtime's traits.

use retry_runtime::{Transaction, transactional};

#[transactional]
async fn touch<E>(tx: &mut Transaction<'_>) -> Result<(), E>
where
    E: From<tokio_postgres::Error>,
{
    Ok(tx.batch_execute("SELECT 1").await?)
}

#[transactional(deadline = "1s")]
async fn limited<E: From<tokio_postgres::Error>>(tx: &mut Transaction<'_>) -> Result<(), E> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
