//! Methods: every kind of `self`, trait methods, and the option `source`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use deadpool_postgres::Pool;
use retry_runtime::{Source, Transaction, transactional};

use super::{BankError, CENTS, Result, bank};

#[derive(Clone)]
struct Bank {
    pool: Pool,
    name: String,
    calls: Arc<AtomicU32>,
}

impl Bank {
    const SQL: &str = CENTS;

    #[transactional]
    async fn named(&self, tx: &mut Transaction<'_>, id: i64) -> Result<(i64, &str)> {
        Ok((tx.query_one(Self::SQL, &[&id]).await?.get(0), &self.name))
    }

    #[transactional(source = &self.pool)]
    async fn cents(&self, tx: &mut Transaction<'_>, id: i64) -> Result<i64> {
        Ok(tx.query_one(Self::SQL, &[&id]).await?.get(0))
    }

    #[transactional(source = &self.pool)]
    async fn shared(self: Arc<Self>, tx: &mut Transaction<'_>, id: i64) -> Result<i64> {
        Ok(tx.query_one(Self::SQL, &[&id]).await?.get(0))
    }

    #[transactional(source = &self.pool)]
    async fn consumed(self, tx: &Transaction<'_>, id: i64) -> Result<i64> {
        Ok(tx.query_one(Self::SQL, &[&id]).await?.get(0))
    }

    #[transactional(source = self.pool(), retry_if = BankError::is_stale)]
    async fn counted(&self, tx: &Transaction<'_>) -> Result<u32> {
        if tx.attempt() == 1 { Err(BankError::Stale) } else { Ok(tx.attempt()) }
    }

    #[transactional(source = &self.pool, allow_mut)]
    async fn renamed(&mut self, tx: &Transaction<'_>) -> Result<usize> {
        self.name.push_str(tx.query_one("SELECT 'B'", &[]).await?.get(0));
        Ok(self.name.len())
    }

    fn pool(&self) -> &Pool {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &self.pool
    }
}

#[derive(Clone, Copy)]
struct Id(i64);

impl Id {
    #[transactional]
    async fn cents(self, tx: &mut Transaction<'_>) -> Result<i64> {
        Ok(tx.query_one(CENTS, &[&self.0]).await?.get(0))
    }
}

trait Ledger {
    async fn cents_of(&self, source: impl Into<Source<'_>>, id: i64) -> Result<i64>;

    fn sent<'s>(&self, source: impl Into<Source<'s>> + Send) -> impl Future<Output = Result<i64>> + Send;

    async fn own(&self) -> Result<i64>;

    #[transactional]
    async fn accounts(&self, tx: &Transaction<'_>) -> Result<i64> {
        Ok(tx.query_one("SELECT count(*) FROM accounts", &[]).await?.get(0))
    }
}

impl Ledger for Bank {
    #[transactional]
    async fn cents_of(&self, tx: &mut Transaction<'_>, id: i64) -> Result<i64> {
        Ok(tx.query_one(Self::SQL, &[&id]).await?.get(0))
    }

    #[transactional]
    async fn sent(&self, tx: &mut Transaction<'_>) -> Result<i64> {
        self.cents_of(&mut *tx, 1).await
    }

    #[transactional(source = &self.pool)]
    async fn own(&self, tx: &mut Transaction<'_>) -> Result<i64> {
        self.cents_of(tx, 2).await
    }
}

async fn through_the_trait<L: Ledger + Sync>(ledger: &L, pool: &Pool) -> Result<i64> {
    Ok(ledger.cents_of(pool, 1).await? + ledger.sent(pool).await? + ledger.own().await? + ledger.accounts(pool).await?)
}

#[tokio::test]
async fn every_form_of_method_runs() {
    let (_db, pool) = bank(1).await;
    let mut bank = Bank { pool: pool.clone(), name: "A".into(), calls: Arc::default() };
    assert_eq!(bank.named(&pool, 1).await.unwrap(), (100, "A"));
    assert_eq!(bank.cents(1).await.unwrap(), 100);
    assert_eq!(Arc::new(bank.clone()).shared(1).await.unwrap(), 100);
    assert_eq!(bank.clone().consumed(1).await.unwrap(), 100);
    assert_eq!(Id(1).cents(&pool).await.unwrap(), 100);
    assert_eq!(bank.renamed().await.unwrap(), 2);
    assert_eq!(through_the_trait(&bank, &pool).await.unwrap(), 303);
}

#[tokio::test]
async fn the_source_is_evaluated_once_for_each_call() {
    let (_db, pool) = bank(1).await;
    let bank = Bank { pool, name: String::new(), calls: Arc::default() };
    assert_eq!(bank.counted().await.unwrap(), 2);
    assert_eq!(bank.calls.load(Ordering::Relaxed), 1);
}
