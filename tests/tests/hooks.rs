//! Hooks: `on_commit` and `on_rollback` run after the outcome is known and the connection is back in its pool.
#![allow(missing_docs)]

use std::sync::{Arc, Mutex};

use deadpool_postgres::Pool;
use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use retry_tests::rival::Rival;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn push(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn watch(tx: &Transaction<'_>, log: &Log, name: &'static str) {
    let (committed, rolled_back, attempt) = (log.clone(), log.clone(), tx.attempt());
    tx.on_commit(async move { committed.push(format!("{name} {attempt} committed")) });
    tx.on_rollback(async move { rolled_back.push(format!("{name} {attempt} rolled back")) });
}

#[transactional]
async fn inner(tx: &mut Transaction<'_>, log: &Log, fail: bool) -> Result<(), Error> {
    watch(tx, log, "inner");
    if fail {
        tx.batch_execute("SELECT 1 / 0").await?;
    }
    Ok(())
}

#[transactional(isolation = "repeatable read")]
async fn outer(tx: &mut Transaction<'_>, log: &Log, rival: &Rival, conflicts: u32, fail: bool) -> Result<(), Error> {
    watch(tx, log, "outer");
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if tx.attempt() <= conflicts {
        rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await?;
    let _ = inner(&mut *tx, log, fail).await;
    log.push("body done");
    Ok(())
}

#[tokio::test]
async fn hooks_run_once_the_outcome_is_known() {
    let db = Database::create().await;
    db.accounts(1, 100).await;
    let (pool, rival, log) = (db.pool(1), Rival::connect(&db).await, Log::default());
    outer(&pool, &log, &rival, 0, false).await.unwrap();
    assert_eq!(log.take(), ["body done", "outer 1 committed", "inner 1 committed"]);
    outer(&pool, &log, &rival, 1, false).await.unwrap();
    assert_eq!(log.take(), ["outer 1 rolled back", "body done", "outer 2 committed", "inner 2 committed"]);
    outer(&pool, &log, &rival, 0, true).await.unwrap();
    assert_eq!(log.take(), ["body done", "outer 1 committed", "inner 1 rolled back"]);
    outer(&pool, &log, &rival, u32::MAX, false).await.unwrap_err();
    assert_eq!(log.take(), (1..=6).map(|attempt| format!("outer {attempt} rolled back")).collect::<Vec<_>>());
}

#[transactional]
async fn uses_the_pool_afterwards(tx: &mut Transaction<'_>, pool: &Pool, fail: bool) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = cents + 1", &[]).await?;
    for rolled_back in [false, true] {
        let pool = pool.clone();
        let work = async move {
            let client = pool.get().await.unwrap();
            client.execute("INSERT INTO audit VALUES ($1)", &[&rolled_back]).await.unwrap();
        };
        if rolled_back { tx.on_rollback(work) } else { tx.on_commit(work) }
    }
    if fail {
        tx.batch_execute("SELECT 1 / 0").await?;
    }
    Ok(())
}

#[tokio::test]
async fn hooks_run_after_the_connection_is_given_back() {
    let db = Database::create().await;
    db.accounts(1, 100).await;
    db.setup("CREATE TABLE audit (rolled_back bool)").await;
    let pool = db.pool(1);
    uses_the_pool_afterwards(&pool, &pool, false).await.unwrap();
    uses_the_pool_afterwards(&pool, &pool, true).await.unwrap_err();
    assert_eq!(db.value::<i64>("SELECT count(*) FROM audit WHERE rolled_back").await, 1);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM audit WHERE NOT rolled_back").await, 1);
}

#[transactional]
async fn panic_in_a_hook(tx: &mut Transaction<'_>, log: &Log, fail: bool) -> Result<(), Error> {
    tx.on_commit(async { panic!("first") });
    tx.on_rollback(async { panic!("first") });
    watch(tx, log, "second");
    tx.on_commit(async { panic!("third") });
    watch(tx, log, "fourth");
    if fail {
        tx.batch_execute("SELECT 1 / 0").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_hook_that_panics_does_not_stop_the_others() {
    let db = Database::create().await;
    let (pool, log) = (db.pool(1), Log::default());
    for (fail, how) in [(false, "committed"), (true, "rolled back")] {
        let (pool, writes) = (pool.clone(), log.clone());
        let call = tokio::spawn(async move { panic_in_a_hook(&pool, &writes, fail).await });
        let panic = call.await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref(), Some(&"first"));
        assert_eq!(log.take(), [format!("second 1 {how}"), format!("fourth 1 {how}")]);
    }
    assert_eq!(pool.status().available, 1);
}
