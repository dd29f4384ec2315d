use retry_runtime::{Error, Transaction, transactional};

#[transactional]
struct Bank;

#[transactional]
impl Bank {
    async fn touch(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        Ok(tx.batch_execute("SELECT 1").await?)
    }
}

fn main() {}
