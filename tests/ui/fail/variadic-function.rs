use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn touch(tx: &mut Transaction<'_>, _: ...) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
