use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn touch(tx: Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

async fn call(pool: &deadpool_postgres::Pool) -> Result<(), Error> {
    touch(pool).await
}

fn main() {}
