//! The options are in a `static`, which cannot use `Self`.

use retry_runtime::{Error, Transaction, transactional};

struct Bank;

impl Bank {
    const RETRIES: u32 = 7;

    #[transactional(retries = Self::RETRIES)]
    async fn touch(&self, tx: &mut Transaction<'_>) -> Result<(), Error> {
        Ok(tx.batch_execute("SELECT 1").await?)
    }
}

fn main() {}
