//! rustc points at the value that is not `Send`.

use std::rc::Rc;

use deadpool_postgres::Pool;
use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn count(tx: &mut Transaction<'_>) -> Result<i64, Error> {
    let count = Rc::new(1);
    tx.batch_execute("SELECT 1").await?;
    Ok(*count)
}

async fn spawn(pool: Pool) {
    let _ = tokio::spawn(async move { count(&pool).await }).await;
}

fn main() {}
