//! Promise 1 for failures that the runtime did not see: COMMIT is sent with a probe unless every statement is known to have
//! succeeded.
#![allow(missing_docs)]

use std::pin::pin;

use futures_util::{FutureExt, StreamExt, TryStreamExt, poll};
use retry_runtime::{Error, Transaction, transactional};
use retry_tests::{Database, NO_PARAMS};
use tokio_postgres::types::{ToSql, Type};

const NO_TYPES: [(&(dyn ToSql + Sync), Type); 0] = [];
const PROBED: &str = "SAVEPOINT transactional_commit; COMMIT";

/// Writes, and then fails in a way that the runtime does not see.
#[transactional(retries = 0)]
async fn fail_unseen(tx: &mut Transaction<'_>, how: &str) -> Result<(), Error> {
    let divide = tx.prepare("SELECT 10 / (3 - n) FROM generate_series(1, $1::int) AS n").await?;
    let nap = tx.prepare("SELECT pg_sleep(0.02)").await?;
    tx.execute("UPDATE accounts SET cents = 0 WHERE id = 1", &[]).await?;
    match how {
        "statement dropped" => {
            let params: [&(dyn ToSql + Sync); 1] = [&9];
            let mut statement = pin!(tx.execute(&divide, &params));
            assert!(poll!(statement.as_mut()).is_pending());
        }
        "statement forgotten" => {
            let params: [&(dyn ToSql + Sync); 1] = [&9];
            let mut statement = Box::pin(tx.execute(&divide, &params));
            assert!(poll!(statement.as_mut()).is_pending());
            std::mem::forget(statement);
        }
        "proof sent before" => {
            let mut before = pin!(tx.execute(&nap, &[]));
            assert!(poll!(before.as_mut()).is_pending());
            assert!(tx.execute(&divide, &[&9]).now_or_never().is_none());
            before.await?;
        }
        "rows unread" | "rows unread then empty query" => {
            let mut rows = Box::pin(tx.query_raw(&divide, [9]).await?);
            assert!(rows.next().await.expect("a row").is_ok());
            drop(rows);
            if how == "rows unread then empty query" {
                tx.batch_execute("").await?;
            }
        }
        "too many rows" => {
            assert!(tx.query_one(&divide, &[&9]).await.is_err_and(|error| error.as_db_error().is_none()));
        }
        "copy out" => {
            let sql = "COPY (INSERT INTO triggered VALUES (1) RETURNING id) TO STDOUT";
            let data: Vec<_> = tx.copy_out(sql).await?.try_collect().await?;
            assert_eq!(data, ["1\n"]);
        }
        "drivers client" => assert!((**tx).execute(&divide, &[&9]).await.is_err()),
        "nested call dropped" => {
            let mut call = Box::pin(release_the_savepoint(tx));
            // Until its statements are done.
            assert!(tokio::time::timeout(std::time::Duration::from_millis(50), &mut call).await.is_err());
        }
        _ => unreachable!("{how}"),
    }
    Ok(())
}

/// Its ROLLBACK TO fails, after the call has been dropped.
#[transactional]
async fn release_the_savepoint(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("RELEASE transactional_1").await?;
    std::future::pending().await
}

#[tokio::test]
async fn ok_means_committed_whatever_failed_unseen() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    db.setup(
        "CREATE TABLE triggered (id int);
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
         CREATE TRIGGER refuse AFTER INSERT ON triggered FOR EACH STATEMENT EXECUTE FUNCTION refuse()",
    )
    .await;
    let pool = db.pool(1);
    for how in [
        "statement dropped",
        "statement forgotten",
        "proof sent before",
        "rows unread",
        "rows unread then empty query",
        "too many rows",
        "copy out",
        "drivers client",
        "nested call dropped",
    ] {
        let result = fail_unseen(&pool, how).await;
        assert!(matches!(result, Err(Error::Aborted { .. })), "{how}: {result:?}");
        assert_eq!(db.cents(1).await, 100, "{how}");
        assert_eq!(db.open_transactions().await, 0, "{how}");
    }
}

/// Succeeds in different ways. Some of them prove that every statement succeeded.
#[transactional]
async fn end_well(tx: &mut Transaction<'_>, how: &str) -> Result<(), Error> {
    let statement = tx.prepare("SELECT $1::int").await?;
    match how {
        "prepared" => {}
        "simple query" | "simple query, then more" => {
            tx.batch_execute("SELECT 1").await?;
            if how == "simple query, then more" {
                tx.query_one(&statement, &[&1]).await?;
            }
        }
        "typed" => drop(tx.query_typed("SELECT $1::int", &[(&1, Type::INT4)]).await?),
        "typed rows" => {
            tx.query_typed_raw("SELECT 1", NO_TYPES).await?.try_collect::<Vec<_>>().await?;
        }
        "typed, then proof" => {
            tx.query_typed("SELECT $1::int", &[(&1, Type::INT4)]).await?;
            tx.query_one(&statement, &[&1]).await?;
        }
        "typed, without rows" => assert_eq!(tx.execute_typed("SELECT $1::int", &[(&1, Type::INT4)]).await?, 1),
        "nothing changed" => assert_eq!(tx.execute("SELECT 1 WHERE false", &[]).await?, 0),
        "executed" => assert_eq!(tx.execute(&statement, &[&1]).await?, 1),
        "rows read" => {
            tx.query_raw("SELECT 1", NO_PARAMS).await?.try_collect::<Vec<_>>().await?;
            tx.query_one(&statement, &[&1]).await?;
        }
        "rows left unread, then proof" => {
            drop(tx.query_raw("SELECT 1", NO_PARAMS).await?);
            tx.query_one(&statement, &[&1]).await?;
        }
        "failure undone" => {
            tx.batch_execute("SAVEPOINT before").await?;
            assert!(tx.batch_execute("SELECT 1 / 0").await.is_err());
            tx.batch_execute("ROLLBACK TO before").await?;
            tx.query_one(&statement, &[&1]).await?;
        }
        "driver's client" => {
            (**tx).query_one(&statement, &[&1]).await?;
            tx.query_one(&statement, &[&1]).await?;
        }
        _ => unreachable!("{how}"),
    }
    Ok(())
}

#[tokio::test]
async fn commit_is_probed_only_if_something_may_have_failed_unseen() {
    let db = Database::create().await;
    let pool = db.pool(1);
    for (how, commit) in [
        ("prepared", PROBED),
        ("executed", "COMMIT"),
        ("rows read", "COMMIT"),
        ("rows left unread, then proof", "COMMIT"),
        ("failure undone", PROBED),
        ("driver's client", PROBED),
        ("simple query", PROBED),
        ("simple query, then more", PROBED),
        ("typed", PROBED),
        ("typed rows", PROBED),
        ("typed, then proof", "COMMIT"),
        ("typed, without rows", "COMMIT"),
        ("nothing changed", PROBED),
    ] {
        end_well(&pool, how).await.unwrap();
        let last = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle' AND query LIKE '%COMMIT'";
        assert_eq!(db.value::<String>(last).await, commit, "{how}");
    }
}
