use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn touch(id: &i64, tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("SELECT $1", &[id]).await?;
    Ok(())
}

async fn call(pool: &deadpool_postgres::Pool) -> Result<(), Error> {
    touch(pool, &1).await
}

fn main() {}
