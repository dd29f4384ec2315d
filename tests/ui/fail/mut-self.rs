use retry_runtime::{Error, Transaction, transactional};

struct Bank(i64);

impl Bank {
    #[transactional]
    async fn by_reference(&mut self, tx: &Transaction<'_>) -> Result<(), Error> {
        self.0 += i64::from(tx.attempt());
        Ok(())
    }

    #[transactional]
    async fn typed(self: &mut Self, tx: &Transaction<'_>) -> Result<(), Error> {
        self.0 += i64::from(tx.attempt());
        Ok(())
    }

    #[transactional]
    async fn by_value(mut self, tx: &Transaction<'_>) -> Result<i64, Error> {
        self.0 += i64::from(tx.attempt());
        Ok(self.0)
    }
}

fn main() {}
