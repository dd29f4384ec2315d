//! Promise 7: a call takes no more round trips than a hand-written transaction, whatever options are set.
#![allow(missing_docs)]

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::proxy::Proxy;
use retry_tests::{Database, connect, pool};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, GenericClient};

/// Two statements of one round trip each.
async fn two_statements(client: &impl GenericClient) -> Result<(), tokio_postgres::Error> {
    let id: [(&(dyn ToSql + Sync), Type); 1] = [(&1_i64, Type::INT8)];
    client.query_typed("SELECT cents FROM accounts WHERE id = $1", &id).await?;
    client.execute_typed("UPDATE accounts SET cents = cents + 1 WHERE id = $1", &id).await?;
    Ok(())
}

async fn by_hand(client: &mut Client) -> Result<(), tokio_postgres::Error> {
    let tx = client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::Serializable).start().await?;
    two_statements(&tx).await?;
    tx.commit().await
}

#[transactional]
async fn plain(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(two_statements(&**tx).await?)
}

#[transactional(
    isolation = "serializable",
    statement_timeout = "5s",
    lock_timeout = "1s",
    idle_timeout = "1m",
    retry_on = ["23505"],
    retries = 9
)]
async fn with_options(tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(two_statements(&**tx).await?)
}

#[transactional]
async fn nested(tx: &mut Transaction<'_>) -> Result<(), Error> {
    plain(&mut *tx).await
}

async fn watched(tx: &mut Transaction<'_>, fail: bool) -> Result<(), Error> {
    let id: [(&(dyn ToSql + Sync), Type); 1] = [(&1_i64, Type::INT8)];
    tx.query_typed("SELECT cents FROM accounts WHERE id = $1", &id).await?;
    tx.execute_typed(
        "UPDATE accounts SET cents = cents / $2 WHERE id = $1",
        &[id[0].clone(), (&i64::from(!fail), Type::INT8)],
    )
    .await?;
    Ok(())
}

#[transactional]
async fn fails(tx: &mut Transaction<'_>) -> Result<(), Error> {
    watched(tx, true).await
}

#[transactional(begin = "pipelined", isolation = "serializable", lock_timeout = "1s", deadline = "1m")]
async fn pipelined(tx: &mut Transaction<'_>) -> Result<(), Error> {
    watched(tx, false).await
}

#[transactional(deadline = "1m")]
async fn with_deadline(tx: &mut Transaction<'_>) -> Result<(), Error> {
    watched(tx, false).await
}

#[transactional(queue_by = id, queue = "server", isolation = "serializable")]
async fn queued_in_server(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    assert_eq!(id, 1);
    Ok(two_statements(&**tx).await?)
}

#[transactional(begin = "pipelined")]
async fn pipelined_from_the_cache(tx: &mut Transaction<'_>) -> Result<(), Error> {
    for sql in ["SELECT cents FROM accounts WHERE id = $1", "UPDATE accounts SET cents = cents + 1 WHERE id = $1"] {
        let statement = tx.prepare_cached(sql).await?;
        tx.execute(&statement, &[&1_i64]).await?;
    }
    Ok(())
}

/// What a body sends without waiting for the reply, after it has read an account's balance.
async fn read_and_send(tx: &mut Transaction<'_>, how: &str) -> Result<(), Error> {
    let select = tx.prepare_cached("SELECT cents FROM accounts WHERE id = $1").await?;
    let update = tx.prepare_cached("UPDATE accounts SET cents = cents + $1 WHERE id = 1").await?;
    if how != "sends only" && how != "nested" {
        tx.query_one(&select, &[&1_i64]).await?;
    }
    match how {
        "one" | "nested" => tx.send(&update, &[&1_i64])?,
        "typed" => tx.send_typed("UPDATE accounts SET cents = cents + $1", &[(&1_i64, Type::INT8)])?,
        "expecting" => {
            tx.send_expecting(1, &update, &[&1_i64])?;
            tx.send_expecting(1, &update, &[&0_i64])?;
        }
        "many" | "sends only" => {
            for cents in [1_i64, 0, 0, 0] {
                tx.send(&update, &[&cents])?;
            }
        }
        "savepoint" => {
            let savepoint = tx.transaction().await?;
            savepoint.send(&update, &[&1_i64])?;
            savepoint.commit().await?;
        }
        "savepoint rolled back" => {
            let savepoint = tx.transaction().await?;
            savepoint.send(&update, &[&1_i64])?;
            savepoint.rollback().await?;
        }
        "fails" => tx.send_typed("SELECT 1 / (cents - cents) FROM accounts", &[])?,
        "own error" => {
            tx.send(&update, &[&1_i64])?;
            return Err(Error::EndedByBody);
        }
        _ => unreachable!("{how}"),
    }
    Ok(())
}

#[transactional]
async fn sent(tx: &mut Transaction<'_>, how: &str) -> Result<(), Error> {
    read_and_send(tx, how).await
}

#[transactional(begin = "pipelined")]
async fn sent_pipelined(tx: &mut Transaction<'_>, how: &str) -> Result<(), Error> {
    if how == "nested" { sent(&mut *tx, how).await } else { read_and_send(tx, how).await }
}

#[transactional(early_release)]
async fn sent_with_early_release(tx: &mut Transaction<'_>, how: &str) -> Result<(), Error> {
    read_and_send(tx, how).await
}

macro_rules! read_only {
    ($function:ident $(, $option:meta)*) => {
        #[transactional(read_only $(, $option)*)]
        async fn $function(tx: &mut Transaction<'_>) -> Result<(), Error> {
            tx.query_typed("SELECT cents FROM accounts", &[]).await?;
            tx.query_typed("SELECT cents FROM accounts", &[]).await?;
            Ok(())
        }
    };
}

read_only!(report);
read_only!(awaited_report, begin = "awaited");

#[tokio::test]
async fn a_call_takes_no_extra_round_trip() {
    let db = Database::create().await;
    db.accounts(1, 100).await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    let mut client = connect(proxy.config()).await;
    let pool = pool(proxy.config(), 1);
    drop(pool.get().await.unwrap());

    macro_rules! round_trips {
        ($call:expr) => {{
            let before = proxy.round_trips();
            let _ = $call.await;
            proxy.round_trips() - before
        }};
    }
    assert_eq!(round_trips!(by_hand(&mut client)), 4, "BEGIN, two statements, COMMIT");
    assert_eq!(round_trips!(plain(&mut client)), 4);
    assert_eq!(round_trips!(plain(&pool)), 4);
    assert_eq!(round_trips!(with_options(&mut client)), 4);
    assert_eq!(round_trips!(with_options(&pool)), 4);
    assert_eq!(round_trips!(nested(&pool)), 6, "SAVEPOINT and RELEASE take one each");
    assert_eq!(round_trips!(fails(&pool)), 4, "ROLLBACK instead of COMMIT");
    assert_eq!(db.cents(1).await, 106, "all but the last were committed");

    retry_runtime::install_queues(&db.client().await).await.unwrap();
    for call in ["first", "second"] {
        assert_eq!(round_trips!(queued_in_server(&pool, 1)), 4, "the {call} call that locks a table");
    }
    assert_eq!(db.cents(1).await, 108);

    assert_eq!(round_trips!(pipelined(&pool)), 4, "with a deadline, the first call asks for the session's timeout");
    assert_eq!(round_trips!(pipelined(&pool)), 3, "BEGIN and the first statement are sent together");
    let _ = pipelined_from_the_cache(&pool).await;
    assert_eq!(round_trips!(pipelined_from_the_cache(&pool)), 3);
    assert_eq!(round_trips!(report(&pool)), 3, "pipelined by default, because it only reads");
    assert_eq!(round_trips!(awaited_report(&pool)), 4);
    for call in ["first", "second"] {
        assert_eq!(round_trips!(with_deadline(&pool)), 4, "the {call} call with a deadline");
    }
    assert_eq!(db.cents(1).await, 110);
}

#[tokio::test]
async fn sent_statements_leave_with_commit() {
    let db = Database::create().await;
    db.accounts(1, 0).await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    let pool = pool(proxy.config(), 1);
    sent(&pool, "one").await.unwrap(); // Prepares the statements, which the pool caches.
    let mut cents = 1;
    for (how, plain, pipelined, written) in [
        ("one", 3, 2, 1),                   // [BEGIN, SELECT] [UPDATE, COMMIT]
        ("typed", 3, 2, 1),                 // the same
        ("many", 3, 2, 1),                  // [BEGIN, SELECT] [4 × UPDATE, COMMIT]
        ("sends only", 2, 2, 1),            // [BEGIN] [4 × UPDATE, COMMIT]
        ("expecting", 4, 3, 1),             // [BEGIN, SELECT] [2 × UPDATE] [COMMIT]
        ("nested", 2, 3, 1),                // [BEGIN, SAVEPOINT] [UPDATE, RELEASE] [COMMIT]
        ("savepoint", 5, 4, 1),             // [BEGIN, SELECT] [SAVEPOINT] [UPDATE, RELEASE] [COMMIT]
        ("savepoint rolled back", 5, 4, 0), // [BEGIN, SELECT] [SAVEPOINT] [UPDATE, ROLLBACK TO] [COMMIT]
        ("fails", 4, 3, 0),                 // [BEGIN, SELECT] [SELECT, COMMIT] [ROLLBACK]
        ("own error", 3, 2, 0),             // [BEGIN, SELECT] [UPDATE, ROLLBACK]
    ] {
        for (is_pipelined, expected) in [(false, plain), (true, pipelined)] {
            let before = proxy.round_trips();
            let _ = if is_pipelined { sent_pipelined(&pool, how).await } else { sent(&pool, how).await };
            assert_eq!(proxy.round_trips() - before, expected, "{how}, pipelined: {is_pipelined}");
            cents += written;
            assert_eq!(db.cents(1).await, cents, "{how}, pipelined: {is_pipelined}");
        }
    }

    for call in ["first", "second"] {
        let before = proxy.round_trips();
        sent_with_early_release(&pool, "one").await.unwrap();
        assert_eq!(proxy.round_trips() - before, 3, "the {call}: [BEGIN] [SELECT] [UPDATE, COMMIT, flush]");
        cents += 1;
    }

    let mut client = pool.get().await.unwrap();
    let before = proxy.round_trips();
    sent_pipelined(&mut client, "one").await.unwrap();
    assert_eq!(proxy.round_trips() - before, 2, "on a connection");
    let mut tx = client.transaction().await.unwrap();
    let before = proxy.round_trips();
    // A statement that is sent prepared is closed after its reply, in a message that may count or not.
    sent(&mut tx, "typed").await.unwrap();
    assert_eq!(proxy.round_trips() - before, 5, "[SAVEPOINT] [prepare] [prepare] [SELECT] [UPDATE, RELEASE]");
    tx.commit().await.unwrap();
    assert_eq!(db.cents(1).await, cents + 2);
}
