//! Methods of tokio-postgres' transaction that the body must not call.

use retry_runtime::{Transaction, transactional};

#[transactional]
async fn commit(tx: &mut Transaction<'_>) -> anyhow::Result<()> {
    tx.batch_execute("SELECT 1").await?;
    tx.commit().await?;
    Ok(())
}

#[transactional]
async fn rollback(tx: &Transaction<'_>) -> anyhow::Result<()> {
    tx.rollback().await?;
    Ok(())
}

fn main() {}
