use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn touch(tx: &mut Transaction<'_>) {
    tx.batch_execute("SELECT 1").await?;
    Ok(())
}

#[transactional]
async fn touch_quietly(tx: &mut Transaction<'_>) {
    let _ = tx.batch_execute("SELECT 1").await;
}

async fn call(tx: &mut Transaction<'_>) -> Result<(), Error> {
    touch(&mut *tx).await?;
    touch_quietly(tx).await
}

fn main() {}
