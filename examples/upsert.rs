//! Insert a row, or update it if its key exists already.
//!
//! `ON CONFLICT` does it in one statement: prefer it. If the two cases need different work, insert in a savepoint.
//! After a unique violation (SQLSTATE 23505) roll back to the savepoint, then update. Without the savepoint, the server
//! refuses the update (25P02), and the call returns the unique violation as the cause.
//!
//! Prints:
//!
//! ```text
//! savepoint: 8 concurrent calls, 1 inserted, 7 updated
//! on conflict: 8 concurrent calls, 1 inserted, 7 updated
//! the hits of each key: 8, 8
//! no savepoint: the call failed because of 23505
//! ```

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;

const INSERT: &str = "INSERT INTO pages (path, hits) VALUES ($1, 1)";
const UPDATE: &str = "UPDATE pages SET hits = hits + 1 WHERE path = $1";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Done {
    Inserted,
    Updated,
}

#[transactional]
async fn hit(tx: &mut Transaction<'_>, path: &str) -> Result<Done, Error> {
    let savepoint = tx.transaction().await?;
    match savepoint.execute(INSERT, &[&path]).await {
        Ok(_) => {
            savepoint.commit().await?;
            Ok(Done::Inserted)
        }
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            savepoint.rollback().await?;
            tx.execute(UPDATE, &[&path]).await?;
            Ok(Done::Updated)
        }
        Err(error) => Err(error.into()),
    }
}

#[transactional]
async fn hit_on_conflict(tx: &mut Transaction<'_>, path: &str) -> Result<Done, Error> {
    let upsert = "INSERT INTO pages (path, hits) VALUES ($1, 1)
                  ON CONFLICT (path) DO UPDATE SET hits = pages.hits + 1 RETURNING hits";
    let hits: i64 = tx.query_one(upsert, &[&path]).await?.get(0);
    Ok(if hits == 1 { Done::Inserted } else { Done::Updated })
}

#[transactional]
async fn hit_without_savepoint(tx: &mut Transaction<'_>, path: &str) -> Result<Done, Error> {
    if tx.execute(INSERT, &[&path]).await.is_ok() {
        return Ok(Done::Inserted);
    }
    tx.execute(UPDATE, &[&path]).await?; // fails: the transaction is aborted
    Ok(Done::Updated)
}

fn report(how: &str, done: &[Result<Done, Error>]) {
    let count = |what| done.iter().filter(|done| matches!(done, Ok(done) if *done == what)).count();
    let (inserted, updated) = (count(Done::Inserted), count(Done::Updated));
    println!("{how}: {} concurrent calls, {inserted} inserted, {updated} updated", done.len());
}

#[tokio::main]
async fn main() {
    let database = Database::create().await;
    database.setup("CREATE TABLE pages (path text PRIMARY KEY, hits bigint NOT NULL)").await;
    let pool = database.pool(8);

    let (mut hits, mut hits_on_conflict) = (JoinSet::new(), JoinSet::new());
    for _ in 0..8 {
        let (one, other) = (pool.clone(), pool.clone());
        hits.spawn(async move { hit(&one, "/").await });
        hits_on_conflict.spawn(async move { hit_on_conflict(&other, "/about").await });
    }
    report("savepoint", &hits.join_all().await);
    report("on conflict", &hits_on_conflict.join_all().await);
    let hits: String = database.value("SELECT string_agg(hits::text, ', ') FROM pages").await;
    println!("the hits of each key: {hits}");

    let error = hit_without_savepoint(&pool, "/").await.expect_err("the key exists");
    let code = error.as_db_error().map_or("no SQLSTATE", |cause| cause.code().code());
    println!("no savepoint: the call failed because of {code}");
}
