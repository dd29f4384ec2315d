//! Promise 2: a lost conflict is retried, whatever the body did with the error.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::TryStreamExt;
use retry_runtime::{Class, Error, Transaction, classify, transactional};
use retry_tests::Database;
use retry_tests::rival::Rival;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row};

/// What a body returns instead of the database's error.
#[derive(Debug)]
enum Own {
    Runtime,
    Flattened(String),
    Opaque,
}

impl From<Error> for Own {
    fn from(_: Error) -> Self {
        Self::Runtime
    }
}

/// Two accounts, and a rival that makes the first `losses` attempts of a call lose.
struct Scene {
    db: Database,
    rival: Rival,
    losses: u32,
    attempts: AtomicU32,
    /// The rival's statement that goes on once this side is rolled back.
    blocked: Mutex<Option<JoinHandle<Result<(), tokio_postgres::Error>>>>,
}

impl Scene {
    async fn new(losses: u32) -> Self {
        let db = Database::create().await;
        db.accounts(2, 100).await;
        let rival = Rival::connect(&db).await;
        Self { db, rival, losses, attempts: AtomicU32::new(0), blocked: Mutex::default() }
    }

    /// Loses with 40001: another transaction changes the row that this snapshot has read.
    async fn serialization_failure(&self, tx: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
        if self.begin(tx) {
            self.rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
        }
        tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await?;
        Ok(())
    }

    /// Loses with 40P01: two transactions lock two rows in opposite order.
    async fn deadlock(&self, tx: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        let loses = self.begin(tx);
        if let Some(blocked) = self.blocked.lock().await.take() {
            blocked.await.expect("the rival").expect("the rival is never the victim");
        }
        tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await?;
        if loses {
            self.rival.run("BEGIN; UPDATE accounts SET cents = cents + 1 WHERE id = 2").await;
            let blocked = self.rival.block_on("UPDATE accounts SET cents = cents + 1 WHERE id = 1; ROLLBACK").await;
            *self.blocked.lock().await = Some(blocked);
        }
        tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 2", &[]).await?;
        Ok(())
    }

    /// Loses with 55P03: the row is locked.
    async fn lock_not_available(&self, tx: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        if self.begin(tx) {
            self.rival.run("BEGIN; UPDATE accounts SET cents = cents WHERE id = 1").await;
        }
        let locked = tx.query("SELECT FROM accounts WHERE id = 1 FOR UPDATE NOWAIT", &[]).await;
        self.rival.run("ROLLBACK").await;
        locked?;
        tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await?;
        Ok(())
    }

    fn begin(&self, tx: &Transaction<'_>) -> bool {
        self.attempts.store(tx.attempt(), Ordering::Relaxed);
        tx.attempt() <= self.losses
    }

    fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }
}

#[transactional]
async fn deadlocked(tx: &mut Transaction<'_>, scene: &Scene) -> Result<(), Error> {
    Ok(scene.deadlock(tx).await?)
}

#[tokio::test]
async fn a_transient_deadlock_heals() {
    let scene = Scene::new(2).await;
    deadlocked(&scene.db.pool(1), &scene).await.unwrap();
    assert_eq!(scene.attempts(), 3);
    assert_eq!((scene.db.cents(1).await, scene.db.cents(2).await), (110, 110));
}

#[tokio::test]
async fn a_lasting_deadlock_is_returned_after_six_attempts() {
    let scene = Scene::new(u32::MAX).await;
    let error = deadlocked(&scene.db.pool(1), &scene).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Deadlock));
    assert_eq!(scene.attempts(), 6, "the first attempt and 5 retries");
    assert_eq!((scene.db.cents(1).await, scene.db.cents(2).await), (100, 100));
}

#[transactional]
async fn locked_out(tx: &mut Transaction<'_>, scene: &Scene) -> Result<(), Error> {
    Ok(scene.lock_not_available(tx).await?)
}

#[tokio::test]
async fn a_lock_not_available_is_retried() {
    let scene = Scene::new(1).await;
    locked_out(&scene.db.pool(1), &scene).await.unwrap();
    assert_eq!((scene.attempts(), scene.db.cents(1).await), (2, 110));
}

#[transactional(isolation = "repeatable read")]
async fn returned(tx: &mut Transaction<'_>, scene: &Scene) -> Result<(), Error> {
    Ok(scene.serialization_failure(tx).await?)
}

#[transactional(isolation = "repeatable read")]
async fn swallowed(tx: &mut Transaction<'_>, scene: &Scene) -> Result<(), Error> {
    let _ = scene.serialization_failure(tx).await;
    Ok(())
}

#[transactional(isolation = "repeatable read")]
async fn flattened(tx: &mut Transaction<'_>, scene: &Scene) -> Result<(), Own> {
    scene.serialization_failure(tx).await.map_err(|error| Own::Flattened(error.to_string()))
}

#[transactional(isolation = "repeatable read")]
async fn mapped_without_source(tx: &mut Transaction<'_>, scene: &Scene) -> Result<(), Own> {
    scene.serialization_failure(tx).await.map_err(|_| Own::Opaque)
}

#[transactional(isolation = "repeatable read")]
async fn hidden_by_the_next_failure(tx: &mut Transaction<'_>, scene: &Scene) -> anyhow::Result<()> {
    let _ = scene.serialization_failure(tx).await;
    tx.execute("SELECT 1", &[]).await?;
    Ok(())
}

#[transactional(isolation = "repeatable read")]
async fn with_context(tx: &mut Transaction<'_>, scene: &Scene) -> anyhow::Result<()> {
    use anyhow::Context;
    scene.serialization_failure(tx).await.context("moving money")
}

#[transactional(isolation = "repeatable read")]
async fn boxed(tx: &mut Transaction<'_>, scene: &Scene) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Ok(scene.serialization_failure(tx).await?)
}

#[transactional(isolation = "repeatable read")]
async fn behind_a_savepoint(tx: &mut Transaction<'_>, scene: &Scene) -> Result<(), Error> {
    tx.batch_execute("SAVEPOINT mine").await?;
    if scene.serialization_failure(tx).await.is_err() {
        tx.batch_execute("ROLLBACK TO mine").await?;
    }
    Ok(())
}

/// The first failure is no conflict, and both are handled.
#[transactional(isolation = "repeatable read")]
async fn after_another_failure(tx: &mut Transaction<'_>, scene: &Scene) -> Result<(), Error> {
    tx.batch_execute("SAVEPOINT mine").await?;
    let _ = tx.execute("INSERT INTO accounts VALUES (1, 1)", &[]).await;
    tx.batch_execute("ROLLBACK TO mine").await?;
    if scene.serialization_failure(tx).await.is_err() {
        tx.batch_execute("ROLLBACK TO mine").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_lost_conflict_is_retried_whatever_the_body_did_with_the_error() {
    macro_rules! check {
        ($($function:ident),*) => {$(
            let scene = Scene::new(2).await;
            $function(&scene.db.pool(1), &scene).await.unwrap();
            assert_eq!(scene.attempts(), 3, stringify!($function));
            assert_eq!(scene.db.cents(1).await, 112, stringify!($function));
        )*};
    }
    check!(returned, swallowed, flattened, mapped_without_source, hidden_by_the_next_failure);
    check!(with_context, boxed, behind_a_savepoint, after_another_failure);
}

#[tokio::test]
async fn a_swallowed_conflict_is_an_error_once_the_budget_is_spent() {
    let scene = Scene::new(u32::MAX).await;
    let error = swallowed(&scene.db.pool(1), &scene).await.unwrap_err();
    assert!(matches!(error, Error::Aborted { .. }), "{error:?}");
    assert_eq!(classify(&error), Some(Class::Serialization));
    assert_eq!(scene.attempts(), 6);
    let scene = Scene::new(u32::MAX).await;
    let error = behind_a_savepoint(&scene.db.pool(1), &scene).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Serialization));
}

#[tokio::test]
async fn the_bodys_own_error_is_returned_once_the_budget_is_spent() {
    let scene = Scene::new(u32::MAX).await;
    let error = flattened(&scene.db.pool(1), &scene).await.unwrap_err();
    assert!(matches!(&error, Own::Flattened(text) if text == "db error"), "{error:?}");
    assert_eq!(scene.attempts(), 6);
}

async fn add_ten(client: &impl GenericClient) -> Result<(), tokio_postgres::Error> {
    client.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await.map(|_| ())
}

#[derive(Debug, thiserror::Error)]
enum Chained {
    #[error("the database")]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Runtime(#[from] Error),
}

type Boxed = Box<dyn std::error::Error + Send + Sync>;

macro_rules! through_a_generic_client {
    ($($function:ident: $error:ty),*) => {
        $(#[transactional(isolation = "repeatable read")]
        async fn $function(tx: &mut Transaction<'_>, scene: &Scene) -> Result<(), $error> {
            tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
            if scene.begin(tx) {
                scene.rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
            }
            Ok(add_ten(&**tx).await?)
        })*

        #[tokio::test]
        async fn a_conflict_behind_a_generic_client_is_found_in_the_chain_of_sources() {$(
            let scene = Scene::new(2).await;
            $function(&scene.db.pool(1), &scene).await.unwrap();
            assert_eq!((scene.attempts(), scene.db.cents(1).await), (3, 112), stringify!($function));
        )*}
    };
}

through_a_generic_client!(as_enum: Chained, as_anyhow: anyhow::Error, as_box: Boxed, as_runtime: Error);

/// The failing statement is sent first, and only the symptom of its failure is waited for.
#[transactional(isolation = "repeatable read")]
async fn only_the_symptom(tx: &mut Transaction<'_>, scene: &Scene) -> Result<Vec<Row>, Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if scene.begin(tx) {
        scene.rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    let mut add = std::pin::pin!(tx.batch_execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1"));
    // Polled once, it is sent.
    assert!(futures_util::poll!(add.as_mut()).is_pending());
    Ok(tx.query("SELECT 1", &[]).await?)
}

#[tokio::test]
async fn a_symptom_behind_an_unanswered_statement_is_retried_on_the_smaller_budget() {
    let scene = Scene::new(1).await;
    only_the_symptom(&scene.db.pool(1), &scene).await.unwrap();
    assert_eq!((scene.attempts(), scene.db.cents(1).await), (2, 111));
    let scene = Scene::new(u32::MAX).await;
    only_the_symptom(&scene.db.pool(1), &scene).await.unwrap_err();
    assert_eq!(scene.attempts(), 3, "the first attempt and 2 retries");
}

/// The cause is out of sight, and the statement that nobody waits for comes after the symptom.
#[transactional]
async fn unanswered_after_the_symptom(tx: &mut Transaction<'_>, attempts: &AtomicU32) -> Result<(), Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    let client: &tokio_postgres::Client = tx;
    let _ = client.batch_execute("SELECT 1 / 0").await;
    let symptom = tx.batch_execute("SELECT 1").await;
    let dropped = std::pin::pin!(tx.batch_execute("SELECT 1"));
    assert!(futures_util::poll!(dropped).is_pending());
    Ok(symptom?)
}

#[tokio::test]
async fn a_symptom_before_an_unanswered_statement_is_not_retried() {
    let scene = Scene::new(0).await;
    let attempts = AtomicU32::new(0);
    unanswered_after_the_symptom(&scene.db.pool(1), &attempts).await.unwrap_err();
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}

/// Both are answered, and the symptom is looked at first.
#[transactional(retry_on = ["23505"])]
async fn symptom_before_cause(tx: &mut Transaction<'_>, attempts: &AtomicU32) -> Result<(), Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    let mut cause = std::pin::pin!(tx.batch_execute("INSERT INTO accounts VALUES (1, 1)"));
    let mut symptom = std::pin::pin!(tx.batch_execute("SELECT 1"));
    assert!(futures_util::poll!(cause.as_mut()).is_pending());
    assert!(futures_util::poll!(symptom.as_mut()).is_pending());
    let symptom = symptom.await;
    let _ = cause.await;
    Ok(symptom?)
}

#[tokio::test]
async fn a_symptom_gives_way_to_its_cause() {
    let scene = Scene::new(0).await;
    let attempts = AtomicU32::new(0);
    symptom_before_cause(&scene.db.pool(1), &attempts).await.unwrap_err();
    assert_eq!(attempts.load(Ordering::Relaxed), 3, "retried as the cause is");
}

#[transactional(isolation = "repeatable read")]
async fn joined(tx: &mut Transaction<'_>, scene: &Scene) -> Result<(), Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if scene.begin(tx) {
        scene.rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    tokio::try_join!(
        tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]),
        tx.query("SELECT 1", &[]),
        tx.query("SELECT 2", &[]),
    )?;
    Ok(())
}

#[tokio::test]
async fn statements_that_are_joined_are_retried() {
    let scene = Scene::new(2).await;
    joined(&scene.db.pool(1), &scene).await.unwrap();
    assert_eq!((scene.attempts(), scene.db.cents(1).await), (3, 112));
}

#[transactional(isolation = "serializable")]
async fn go_off_duty(tx: &mut Transaction<'_>, id: i32, barrier: &tokio::sync::Barrier) -> Result<bool, Error> {
    let on_duty: i64 = tx.query_one("SELECT count(*) FROM doctors WHERE on_duty", &[]).await?.get(0);
    if tx.attempt() == 1 {
        barrier.wait().await;
    }
    if on_duty < 2 {
        return Ok(false);
    }
    tx.execute("UPDATE doctors SET on_duty = false WHERE id = $1", &[&id]).await?;
    Ok(true)
}

/// Write skew: each reads what the other writes. One of them fails, at its UPDATE or at its COMMIT.
#[tokio::test]
async fn write_skew_under_serializable_leaves_one_on_duty() {
    let db = Database::create().await;
    db.setup("CREATE TABLE doctors (id int, on_duty bool); INSERT INTO doctors VALUES (1, true), (2, true)").await;
    let (pool, barrier) = (db.pool(2), tokio::sync::Barrier::new(2));
    for _ in 0..10 {
        db.setup("UPDATE doctors SET on_duty = true").await;
        let (one, two) = tokio::join!(go_off_duty(&pool, 1, &barrier), go_off_duty(&pool, 2, &barrier));
        assert_ne!(one.unwrap(), two.unwrap(), "one went, the other found that it may not");
        assert_eq!(db.value::<i64>("SELECT count(*) FROM doctors WHERE on_duty").await, 1);
    }
}

/// The driver looks the column's type up after the statement, and so the statement's failure shows as a symptom.
#[transactional(isolation = "repeatable read")]
async fn of_a_new_type(tx: &mut Transaction<'_>, scene: &Scene, raw: bool) -> Result<(), Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if scene.begin(tx) {
        scene.rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    let sql = "UPDATE accounts SET cents = cents + $1 WHERE id = 1 RETURNING 'glad'::mood";
    let add: (&(dyn ToSql + Sync), Type) = (&10_i64, Type::INT8);
    if raw {
        tx.query_typed_raw(sql, [add]).await?.try_collect::<Vec<_>>().await?;
    } else {
        tx.query_typed(sql, &[add]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_conflict_behind_the_look_up_of_a_type_is_retried() {
    for raw in [false, true] {
        let scene = Scene::new(1).await;
        scene.db.setup("CREATE TYPE mood AS ENUM ('glad')").await;
        of_a_new_type(&scene.db.pool(1), &scene, raw).await.unwrap();
        assert_eq!((scene.attempts(), scene.db.cents(1).await), (2, 111));
    }
}
