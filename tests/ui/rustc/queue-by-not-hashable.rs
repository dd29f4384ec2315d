use retry_runtime::{Error, Transaction, transactional};

#[transactional(queue_by = [id, rate])]
async fn touch(tx: &mut Transaction<'_>, id: i64, rate: f64) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET rate = $1 WHERE id = $2", &[&rate, &id]).await?;
    Ok(())
}

fn main() {}
