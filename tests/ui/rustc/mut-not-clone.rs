//! A `mut` parameter is cloned afresh for each attempt.

use retry_runtime::{Error, Transaction, transactional};

struct Counter(i64);

#[transactional]
async fn count(_tx: &mut Transaction<'_>, mut counter: Counter) -> Result<i64, Error> {
    counter.0 += 1;
    Ok(counter.0)
}

fn main() {}
