//! What keeps the body from being sent to another thread is reported at the body's own line.

use std::rc::Rc;

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn count(tx: &mut Transaction<'_>) -> Result<i64, Error> {
    let count = Rc::new(1);
    tx.batch_execute("SELECT 1").await?;
    Ok(*count)
}

fn send<T: Send>(_: T) {}

fn main() {
    let spawn = |tx: &mut Transaction<'_>| send(count(tx));
    let _ = spawn;
}
