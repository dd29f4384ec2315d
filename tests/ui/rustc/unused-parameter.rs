#![deny(unused)]

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn touch(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    let cents = 1;
    Ok(tx.batch_execute("SELECT 1").await?)
}

fn main() {
    let _ = |pool: &'static deadpool_postgres::Pool| touch(pool, 1);
}
