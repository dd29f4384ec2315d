use retry_runtime::{Error, Transaction, transactional};

#[transactional]
#[test]
async fn touches(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

#[transactional]
#[tokio::test]
async fn touches_under_tokio(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
