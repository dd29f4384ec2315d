use retry_runtime::{Error, Transaction, transactional};

#[transactional(queue_by = "id")]
async fn in_quotes(tx: &mut Transaction<'_>, id: i64) -> Result<u64, Error> {
    Ok(tx.execute("SELECT $1", &[&id]).await?)
}

#[transactional(queue_by = [id, "every transfer", -1])]
async fn in_a_list(tx: &mut Transaction<'_>, id: i64) -> Result<u64, Error> {
    Ok(tx.execute("SELECT $1", &[&id]).await?)
}

fn main() {}
