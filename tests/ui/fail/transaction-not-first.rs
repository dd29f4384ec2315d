use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn touch(id: &i64, tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("SELECT $1", &[id]).await?;
    Ok(())
}

fn main() {}
