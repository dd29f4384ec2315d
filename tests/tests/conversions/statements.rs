//! A struct for each connection, with the client and its prepared statements.
//!
//! Before: `Connection { client, statements }`, made when the connection opens. Its transaction type refers to the statements.
//!
//! After, on a pool: each function prepares what it needs with `prepare_cached`. The pool's connections keep the statements,
//! and an attempt on another connection gets that connection's own. A `Statement` that is kept elsewhere would not work
//! there.
//!
//! After, on one client: the struct stays, and its statements are passed to the function. All attempts run on that client.

use std::collections::HashSet;

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use retry_tests::rival::{Rival, pid, terminate};
use tokio_postgres::{Client, Statement};

use crate::{CHANGE, bank};

const CENTS: &str = "SELECT cents FROM accounts WHERE id = $1";
const ADD: &str = "UPDATE accounts SET cents = cents + $1 WHERE id = $2";

struct Statements {
    cents: Statement,
    add: Statement,
}

impl Statements {
    async fn cached(tx: &Transaction<'_>) -> Result<Self, tokio_postgres::Error> {
        Ok(Self { cents: tx.prepare_cached(CENTS).await?, add: tx.prepare_cached(ADD).await? })
    }
}

/// What the first attempt meets.
#[derive(Clone, Copy)]
enum First<'a> {
    Nothing,
    Conflict(&'a Rival),
    Closed(&'a Client),
}

/// What a call reports of its last attempt.
#[derive(Debug)]
struct Report {
    attempt: u32,
    pid: i32,
    /// The names of the session's prepared statements. The driver uses no name twice.
    names: Vec<String>,
}

async fn add(tx: &Transaction<'_>, statements: &Statements, first: First<'_>) -> Result<Report, tokio_postgres::Error> {
    let pid = pid(tx).await;
    tx.query_one(&statements.cents, &[&1_i64]).await?;
    if tx.attempt() == 1 {
        match first {
            First::Nothing => {}
            First::Conflict(rival) => rival.run(CHANGE).await,
            First::Closed(observer) => terminate(observer, pid).await,
        }
    }
    tx.execute(&statements.add, &[&10_i64, &1_i64]).await?;
    let names = "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%cents%' ORDER BY name";
    let names = tx.query_typed(names, &[]).await?.iter().map(|row| row.get(0)).collect();
    Ok(Report { attempt: tx.attempt(), pid, names })
}

#[transactional(isolation = "repeatable read")]
async fn add_on_pool(tx: &mut Transaction<'_>, first: First<'_>) -> Result<Report, Error> {
    Ok(add(tx, &Statements::cached(tx).await?, first).await?)
}

#[transactional(isolation = "repeatable read")]
async fn add_with(tx: &mut Transaction<'_>, statements: &Statements, first: First<'_>) -> Result<Report, Error> {
    Ok(add(tx, statements, first).await?)
}

struct Connection {
    client: Client,
    statements: Statements,
}

impl Connection {
    async fn open(db: &Database) -> Self {
        let client = db.client().await;
        let statements =
            Statements { cents: client.prepare(CENTS).await.unwrap(), add: client.prepare(ADD).await.unwrap() };
        Self { client, statements }
    }

    async fn add(&mut self, first: First<'_>) -> Result<Report, Error> {
        add_with(&mut self.client, &self.statements, first).await
    }
}

#[tokio::test]
async fn a_pool_prepares_each_statement_once_per_connection() {
    let (db, pool) = bank(2).await;
    let rival = Rival::connect(&db).await;
    let mut statements = HashSet::new();
    for first in [First::Nothing, First::Conflict(&rival), First::Nothing] {
        statements.extend(add_on_pool(&pool, first).await.unwrap().names);
    }
    assert_eq!(statements.len(), 2, "on the first connection: {statements:?}");
    let _held = pool.get().await.unwrap();
    for first in [First::Nothing, First::Conflict(&rival), First::Nothing] {
        statements.extend(add_on_pool(&pool, first).await.unwrap().names);
    }
    assert_eq!(statements.len(), 4, "and on the second: {statements:?}");
    assert_eq!(db.cents(1).await, 162);
}

#[tokio::test]
async fn a_retry_on_another_connection_has_its_own_statements() {
    let (db, pool) = bank(1).await;
    let observer = db.client().await;
    let before = add_on_pool(&pool, First::Nothing).await.unwrap();
    let after = add_on_pool(&pool, First::Closed(&observer)).await.unwrap();
    assert_eq!((before.attempt, after.attempt), (1, 2));
    assert_ne!(before.pid, after.pid);
    assert!(before.names.iter().all(|name| !after.names.contains(name)), "{before:?} {after:?}");
    assert_eq!(db.cents(1).await, 120);
}

#[tokio::test]
async fn a_single_client_keeps_the_statements_it_has() {
    let (db, _pool) = bank(1).await;
    let (mut connection, rival) = (Connection::open(&db).await, Rival::connect(&db).await);
    let names = connection.add(First::Nothing).await.unwrap().names;
    let report = connection.add(First::Conflict(&rival)).await.unwrap();
    assert_eq!((report.attempt, report.names), (2, names));
    assert_eq!(db.cents(1).await, 121);
}
