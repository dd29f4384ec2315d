//! The function's error must be made from the runtime's.

use retry_runtime::{Transaction, transactional};

#[derive(Debug)]
struct BankError;

#[transactional]
async fn transfer(_tx: &mut Transaction<'_>, cents: i64) -> Result<(), BankError> {
    if cents < 0 { Err(BankError) } else { Ok(()) }
}

fn main() {}
