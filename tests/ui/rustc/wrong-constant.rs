//! A constant must have the option's type.

use retry_runtime::{Error, Transaction, transactional};

const RETRIES: usize = 3;
const DELAY: u64 = 5;

#[transactional(retries = RETRIES, base_delay = DELAY, deadlock_retries = LIMIT)]
async fn ping(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {}
