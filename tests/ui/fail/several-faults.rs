use retry_runtime::{Error, Transaction, transactional};

#[transactional(retry = 1, retries = "3", jitter = "some")]
fn touch(tx: &mut Transaction<'_>, seen: &mut Vec<i64>) -> Result<(), Error> {
    seen.push(1);
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
