use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn count(tx: &mut Transaction<'_>, ref mut total: i64) -> Result<(), Error> {
    *total += tx.query_one("SELECT 1::bigint", &[]).await?.get::<_, i64>(0);
    Ok(())
}

fn main() {}
