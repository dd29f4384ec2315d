//! A function without an error has no way to say that its transaction failed.

use retry_runtime::{Transaction, transactional};

#[transactional]
async fn count(_tx: &mut Transaction<'_>) -> i64 {
    1
}

fn main() {}
