//! rustc proposes a bound of ours; the last note says which one to write.

use retry_runtime::{Transaction, transactional};

#[transactional]
async fn touch<E: From<tokio_postgres::Error>>(tx: &mut Transaction<'_>) -> Result<(), E> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
