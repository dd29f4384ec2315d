use retry_runtime::{Error, Transaction, transactional};

#[transactional(max_delay = "18446744073709551615s")]
async fn touch(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
