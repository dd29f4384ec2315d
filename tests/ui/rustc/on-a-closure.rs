//! Stable Rust has no attributes on expressions.

use retry_runtime::{Error, Transaction, transactional};

fn main() {
    let _ = #[transactional]
    async |tx: &Transaction<'_>| -> Result<(), Error> { Ok(tx.batch_execute("SELECT 1").await?) };
}
