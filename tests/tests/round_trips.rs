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
