//! The runtime compares values that are constants.

use std::time::Duration;

use retry_runtime::{Error, Transaction, transactional};

const BASE: Duration = Duration::from_secs(1);

#[transactional(base_delay = BASE, max_delay = "5ms")]
async fn transfer(_tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(())
}

fn main() {}
