use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn touch(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("SELECT 1")?;
    Ok(())
}

fn main() {}
