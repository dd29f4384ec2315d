//! A function without an error cannot report that its transaction failed.

use retry_runtime::{Transaction, transactional};

#[transactional]
async fn count(_tx: &mut Transaction<'_>) -> i64 {
    1
}

#[transactional(read_only)]
async fn total(_tx: &mut Transaction<'_>) -> Option<i64> {
    Some(1)
}

fn main() {}
