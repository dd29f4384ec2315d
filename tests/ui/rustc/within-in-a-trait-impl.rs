//! A trait's `impl` has no room for a twin.

use deadpool_postgres::Pool;
use retry_runtime::{Error, Transaction, transactional};

struct Bank {
    pool: Pool,
}

trait Ledger {
    async fn touch(&self) -> Result<(), Error>;
}

impl Ledger for Bank {
    #[transactional(source = &self.pool, within = touch_within)]
    async fn touch(&self, tx: &mut Transaction<'_>) -> Result<(), Error> {
        Ok(tx.batch_execute("SELECT 1").await?)
    }
}

fn main() {}
