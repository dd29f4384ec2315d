//! Every attempt starts with a new clone of a `mut` parameter.

use retry_runtime::{Error, Transaction, transactional};

struct Counter(i64);

#[transactional]
async fn count(_tx: &mut Transaction<'_>, mut counter: Counter) -> Result<i64, Error> {
    counter.0 += 1;
    Ok(counter.0)
}

fn main() {}
