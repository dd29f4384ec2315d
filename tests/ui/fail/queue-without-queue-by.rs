use retry_runtime::{Error, Transaction, transactional};

#[transactional(queue = "server")]
async fn touch(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
