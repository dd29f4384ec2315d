use retry_runtime::{Error, Transaction, transactional};

#[transactional]
fn touch(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

#[transactional]
const fn constant(_tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(())
}

async fn call(tx: &mut Transaction<'_>) -> Result<(), Error> {
    touch(&mut *tx).await?;
    constant(tx).await
}

fn main() {}
