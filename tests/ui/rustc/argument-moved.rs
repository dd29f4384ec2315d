//! The body may run more than once, so it cannot move a parameter.

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn rename(tx: &mut Transaction<'_>, id: i64, name: String) -> Result<String, Error> {
    tx.execute("UPDATE accounts SET name = $1 WHERE id = $2", &[&name, &id]).await?;
    Ok(name)
}

fn main() {}
