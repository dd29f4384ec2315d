//! What keeps the body from being sent to another thread keeps the call from it, at the body's own line.

use std::rc::Rc;

use retry_runtime::{Error, Pool, Transaction, transactional};

#[transactional]
async fn count(tx: &mut Transaction<'_>) -> Result<Rc<i64>, Error> {
    let count = Rc::new(1);
    tx.batch_execute("SELECT 1").await?;
    Ok(count)
}

fn send<T: Send>(_: T) {}

fn call(pool: &dyn Pool, tx: &mut Transaction<'_>) {
    let _ = pool;
    send(count(tx));
}

fn main() {}
