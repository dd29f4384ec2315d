//! Options that never take effect because of a constant.

use retry_runtime::{Error, Transaction, transactional};

const NEVER: u32 = 0;
const OFTEN: u32 = 6;

#[transactional(retries = NEVER, retry_on = ["23505"])]
async fn retried_on(_tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(())
}

#[transactional(deadlock_retries = NEVER, retry_if = |_| true)]
async fn retried_if(_tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(())
}

#[transactional(escalate_after = OFTEN)]
async fn escalates(_tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(())
}

fn main() {}
