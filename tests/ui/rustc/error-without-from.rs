//! The runtime's own error must fit into the function's.

use retry_runtime::{Transaction, transactional};

#[derive(Debug)]
struct BankError;

#[transactional]
async fn transfer(_tx: &mut Transaction<'_>, cents: i64) -> Result<(), BankError> {
    if cents < 0 { Err(BankError) } else { Ok(()) }
}

fn main() {}
