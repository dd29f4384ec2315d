use retry_runtime::{Error, Transaction, transactional};

#[transactional(deadline = "1.5s")]
async fn touch(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
