//! Query methods, row streams and COPY: all of them work, and the runtime sees their failures.
#![allow(missing_docs)]

use std::pin::pin;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use retry_runtime::{Error, Transaction, transactional};
use retry_tests::events::Events;
use retry_tests::rival::Rival;
use retry_tests::{Database, NO_PARAMS};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::{ToSql, Type};

#[transactional]
async fn every_method(tx: &mut Transaction<'_>) -> Result<(), Error> {
    let one = [(&1_i64 as &(dyn ToSql + Sync), Type::INT8)];
    let sql = "SELECT cents FROM accounts WHERE id = $1";
    let statement = tx.prepare(sql).await?;
    assert_eq!(tx.query(&statement, &[&1_i64]).await?.len(), 1);
    let statement = tx.prepare_typed(sql, &[Type::INT8]).await?;
    assert_eq!(tx.query_one(&statement, &[&1_i64]).await?.get::<_, i64>(0), 100);
    assert!(tx.query_opt(sql, &[&9_i64]).await?.is_none());
    assert_eq!(tx.query_scalar::<i64, _>(sql, &[&1_i64]).await?, [100]);
    assert_eq!(tx.query_one_scalar::<i64, _>(sql, &[&1_i64]).await?, 100);
    assert_eq!(tx.query_opt_scalar::<i64, _>(sql, &[&9_i64]).await?, None);
    assert_eq!(tx.query_typed(sql, &one).await?.len(), 1);
    assert_eq!(tx.query_typed_one(sql, &one).await?.get::<_, i64>(0), 100);
    assert!(tx.query_typed_opt(sql, &one).await?.is_some());
    let set = "UPDATE accounts SET cents = cents WHERE id = $1";
    assert_eq!(tx.execute(set, &[&1_i64]).await?, 1);
    assert_eq!(tx.execute_typed(set, &one).await?, 1);
    assert_eq!(tx.execute_raw(set, [1_i64]).await?, 1);
    assert_eq!(tx.simple_query("SELECT 1").await?.len(), 3);
    tx.batch_execute("SELECT 1; SELECT 2").await?;
    {
        let mut rows = pin!(tx.query_raw(sql, [1_i64]).await?);
        assert!(rows.next().await.is_some());
        assert!(rows.next().await.is_none());
        assert_eq!(rows.rows_affected(), Some(1));
    }
    let rows: Vec<_> = tx.query_typed_raw(sql, [(1_i64, Type::INT8)]).await?.try_collect().await?;
    assert_eq!(rows.len(), 1);
    let messages: Vec<_> = tx.simple_query_raw("SELECT 7").await?.try_collect().await?;
    assert!(messages.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("7"))));
    let mut sink = pin!(tx.copy_in("COPY accounts FROM STDIN").await?);
    sink.send(Bytes::from("7\t70\n8\t80\n")).await?;
    assert_eq!(sink.as_mut().finish().await?, 2);
    let copied: Vec<Bytes> = tx.copy_out("COPY accounts TO STDOUT").await?.try_collect().await?;
    assert_eq!(copied.len(), 4);
    Ok(())
}

#[tokio::test]
async fn every_method_works() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    every_method(&db.pool(1)).await.unwrap();
    assert_eq!(db.cents(8).await, 80);
}

/// Reads a stream to its end, and swallows the conflict that it yields.
#[transactional(isolation = "repeatable read")]
async fn swallow_a_rows_conflict(tx: &mut Transaction<'_>, rival: &Rival) -> Result<u32, Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if tx.attempt() == 1 {
        rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    let rows = tx.query_raw("UPDATE accounts SET cents = cents + 10 RETURNING id", NO_PARAMS).await?;
    let _: Result<Vec<_>, _> = rows.try_collect().await;
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_conflict_that_a_row_stream_yields_is_retried() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    let rival = Rival::connect(&db).await;
    assert_eq!(swallow_a_rows_conflict(&db.pool(1), &rival).await.unwrap(), 2);
    assert_eq!(db.cents(1).await, 111);
}

/// Runs a COPY. Its trigger waits for a row that the rival has locked.
#[transactional(lock_timeout = "10ms")]
async fn copy_into(tx: &mut Transaction<'_>, rows: &str, swallow: bool, rival: &Rival) -> Result<u32, Error> {
    rival.run("ROLLBACK").await;
    if tx.attempt() == 1 {
        rival.run("BEGIN; UPDATE accounts SET cents = cents WHERE id = 1").await;
    }
    let copied = async {
        let mut sink = pin!(tx.copy_in("COPY inbox FROM STDIN").await?);
        for chunk in rows.as_bytes().chunks(4096) {
            sink.send(Bytes::copy_from_slice(chunk)).await?;
        }
        sink.as_mut().finish().await
    };
    match copied.await {
        Err(error) if !swallow => Err(error.into()),
        _ => Ok(tx.attempt()),
    }
}

#[tokio::test]
async fn the_failure_of_a_copy_is_retried_even_if_swallowed() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    db.setup(
        "CREATE TABLE inbox (id int PRIMARY KEY);
         CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN UPDATE accounts SET cents = cents + 1 WHERE id = 1; RETURN new; END $$;
         CREATE TRIGGER touch AFTER INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION touch()",
    )
    .await;
    let (pool, rival) = (db.pool(1), Rival::connect(&db).await);
    assert_eq!(copy_into(&pool, "1\n", false, &rival).await.unwrap(), 2);
    assert_eq!(copy_into(&pool, "2\n", true, &rival).await.unwrap(), 2);
    assert_eq!(db.cents(1).await, 102);
}

/// The server rejects a row while the client still sends more.
#[tokio::test]
async fn a_copy_that_the_server_ends_early_is_not_a_connection_failure() {
    let db = Database::create().await;
    db.setup("CREATE TABLE inbox (id int PRIMARY KEY)").await;
    db.accounts(1, 100).await;
    let (pool, rival) = (db.pool(1), Rival::connect(&db).await);
    let events = Events::capture();
    let error = copy_into(&pool, &"7\n".repeat(200_000), false, &rival).await.unwrap_err();
    assert_eq!(retry_runtime::classify(&error), Some(retry_runtime::Class::Fatal), "{error:?}");
    assert_eq!(events.all().len(), 0, "{events:?}");
}
