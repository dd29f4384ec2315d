//! A result may borrow from what outlives the transaction, under any lifetime name.

use retry_runtime::{Error, Transaction, transactional};

struct Bank<'b>(&'b str);

impl<'b> Bank<'b> {
    #[transactional]
    async fn name(&self, tx: &Transaction<'b>) -> Result<&'b str, Error> {
        tx.batch_execute("SELECT 1").await?;
        Ok(self.0)
    }
}

#[transactional]
async fn first<'a>(tx: &'a mut Transaction<'_>, names: &'a [String]) -> Result<&'a str, Error> {
    tx.batch_execute("SELECT 1").await?;
    Ok(&names[0])
}

#[transactional]
async fn constant<'a>(tx: &mut Transaction<'_>) -> Result<&'a str, Error> {
    tx.batch_execute("SELECT 1").await?;
    Ok("constant")
}

fn main() {
    let _ = async |pool: &deadpool_postgres::Pool, bank: Bank<'_>| {
        let _ = bank.name(pool).await;
        let _ = first(pool, &[]).await;
        let _ = constant(pool).await;
    };
}
