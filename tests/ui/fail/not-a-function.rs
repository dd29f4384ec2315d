use retry_runtime::{Error, Transaction, transactional};

#[transactional]
struct Bank;

#[transactional]
impl Bank {
    async fn touch(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        Ok(tx.batch_execute("SELECT 1").await?)
    }
}

#[transactional]
trait Ledger {
    async fn length(&self) -> usize;
}

#[transactional]
mod accounts {}

fn main() {}
