//! `source` is a pool by `&`, or a client by `&mut`.

use retry_runtime::{Error, Transaction, transactional};

struct Bank {
    name: String,
}

impl Bank {
    #[transactional(source = &self.name)]
    async fn ping(&self, tx: &mut Transaction<'_>) -> Result<(), Error> {
        Ok(tx.batch_execute("SELECT 1").await?)
    }
}

fn main() {}
