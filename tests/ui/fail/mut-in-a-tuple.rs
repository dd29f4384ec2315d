use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn count(tx: &mut Transaction<'_>, (total, by): (&mut i64, i64)) -> Result<(), Error> {
    *total += by * tx.query_one("SELECT 1::bigint", &[]).await?.get::<_, i64>(0);
    Ok(())
}

fn main() {}
