//! A type error is reported at the expression that has the wrong type.

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn balance(_tx: &mut Transaction<'_>, id: i64) -> Result<i64, Error> {
    if id < 0 {
        return id;
    }
    let cents: i64 = "none";
    cents.checked_add(id)
}

fn main() {}
