//! An auth service: handlers that return early, and wake a listener after the commit.
//!
//! Before:
//!
//! ```text
//! let tx = client.transaction().await?;
//! …
//! if known { return Ok(SignUp::Known) }                      // dropped, so rolled back
//! if wrong { tx.commit().await?; return Err(Denied) }        // an error, but committed
//! tx.commit().await?;
//! wake.send(id);
//! ```
//!
//! After: an early `return Ok(…)` commits, so the one that rolled back calls `set_rollback_only` first. An `Err` rolls back,
//! so the one that committed becomes an `Ok` that the caller turns into the error. The wake-up moves into `on_commit`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use deadpool_postgres::Pool;
use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use retry_tests::rival::Rival;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

#[derive(Debug, thiserror::Error)]
enum AuthError {
    #[error("access denied")]
    Denied,
    #[error("the name is reserved")]
    Reserved,
    #[error("the database failed")]
    Database,
    #[error(transparent)]
    Transaction(#[from] Error),
}

impl From<tokio_postgres::Error> for AuthError {
    fn from(_: tokio_postgres::Error) -> Self {
        Self::Database
    }
}

#[derive(Debug, PartialEq, Eq)]
enum SignUp {
    Known,
    Created { attempt: u32 },
}

struct Auth {
    pool: Pool,
    wake: UnboundedSender<i64>,
    undone: Arc<AtomicU32>,
}

impl Auth {
    #[transactional(source = &self.pool, isolation = "repeatable read")]
    async fn sign_up(&self, tx: &mut Transaction<'_>, name: &str, rival: Option<&Rival>) -> Result<SignUp, AuthError> {
        let insert = "INSERT INTO users (name) VALUES ($1) RETURNING id";
        let id: i64 = tx.query_one(insert, &[&name]).await?.get(0);
        let (wake, undone) = (self.wake.clone(), self.undone.clone());
        tx.on_commit(async move { wake.send(id).unwrap() });
        tx.on_rollback(async move {
            undone.fetch_add(1, Ordering::Relaxed);
        });
        let same: i64 = tx.query_one("SELECT count(*) FROM users WHERE name = $1", &[&name]).await?.get(0);
        if same > 1 {
            tx.set_rollback_only();
            return Ok(SignUp::Known);
        }
        if name == "root" {
            return Err(AuthError::Reserved);
        }
        if let (Some(rival), 1) = (rival, tx.attempt()) {
            rival.run("UPDATE totals SET users = users + 1").await;
        }
        tx.execute("UPDATE totals SET users = users + 1", &[]).await?;
        Ok(SignUp::Created { attempt: tx.attempt() })
    }

    async fn log_in(&self, name: &str, password: &str) -> Result<(), AuthError> {
        if self.check(name, password).await? { Ok(()) } else { Err(AuthError::Denied) }
    }

    /// Counts a wrong password. To return an error here would roll the count back.
    #[transactional(source = &self.pool)]
    async fn check(&self, tx: &mut Transaction<'_>, name: &str, password: &str) -> Result<bool, AuthError> {
        if password == "correct" {
            return Ok(true);
        }
        tx.execute("UPDATE users SET failures = failures + 1 WHERE name = $1", &[&name]).await?;
        Ok(false)
    }
}

async fn auth(connections: usize) -> (Database, Auth, UnboundedReceiver<i64>) {
    let db = Database::create().await;
    db.setup(
        "CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY, name text, failures int NOT NULL DEFAULT 0);
         CREATE TABLE totals (users bigint); INSERT INTO totals VALUES (0)",
    )
    .await;
    let (wake, woken) = unbounded_channel();
    let auth = Auth { pool: db.pool(connections), wake, undone: Arc::default() };
    (db, auth, woken)
}

/// Looks each row up as soon as it is woken. Returns the names that it found.
async fn listen(db: &Database, mut woken: UnboundedReceiver<i64>) -> tokio::task::JoinHandle<Vec<Option<String>>> {
    let client = db.client().await;
    tokio::spawn(async move {
        let mut found = Vec::new();
        while let Some(id) = woken.recv().await {
            let row = client.query_opt("SELECT name FROM users WHERE id = $1", &[&id]).await.unwrap();
            found.push(row.map(|row| row.get(0)));
        }
        found
    })
}

fn some<const N: usize>(names: [&str; N]) -> Vec<Option<String>> {
    names.map(|name| Some(name.to_owned())).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wake_up_finds_its_row() {
    let (db, auth, woken) = auth(1).await;
    let (rival, listener) = (Rival::connect(&db).await, listen(&db, woken).await);
    assert_eq!(auth.sign_up("ann", None).await.unwrap(), SignUp::Created { attempt: 1 });
    assert_eq!(auth.sign_up("bob", Some(&rival)).await.unwrap(), SignUp::Created { attempt: 2 });
    assert_eq!(auth.undone.load(Ordering::Relaxed), 1);
    drop(auth);
    assert_eq!(listener.await.unwrap(), some(["ann", "bob"]), "none for the attempt that was rolled back");
}

#[tokio::test]
async fn early_returns_that_roll_back_send_no_wake_up() {
    let (db, auth, woken) = auth(1).await;
    let listener = listen(&db, woken).await;
    auth.sign_up("ann", None).await.unwrap();
    assert_eq!(auth.sign_up("ann", None).await.unwrap(), SignUp::Known);
    assert!(matches!(auth.sign_up("root", None).await, Err(AuthError::Reserved)));
    assert_eq!(auth.undone.load(Ordering::Relaxed), 2);
    drop(auth);
    assert_eq!(listener.await.unwrap(), some(["ann"]));
    assert_eq!(db.value::<i64>("SELECT count(*) FROM users").await, 1);
}

#[tokio::test]
async fn what_an_error_must_keep_is_committed_before_it() {
    let (db, auth, _woken) = auth(1).await;
    auth.sign_up("ann", None).await.unwrap();
    assert!(matches!(auth.log_in("ann", "wrong").await, Err(AuthError::Denied)));
    auth.log_in("ann", "correct").await.unwrap();
    assert_eq!(db.value::<i32>("SELECT failures FROM users").await, 1);
}
