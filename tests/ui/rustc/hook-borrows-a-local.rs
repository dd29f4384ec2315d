//! rustc quotes the line of the bound, whose comment says what to do.

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn welcome(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    let row = tx.query_one("SELECT address FROM users WHERE id = $1", &[&id]).await?;
    let address: &str = row.get(0);
    tx.on_commit(async move { println!("welcome, {address}") });
    Ok(())
}

fn main() {}
