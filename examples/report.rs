//! A report that reads several tables, while other transactions change them: all of its numbers belong to one moment.
//!
//! On the primary, `isolation = "serializable", read_only, deferrable` waits for a snapshot with which no conflict is
//! possible: the report then neither fails nor makes another transaction fail. A standby refuses serializable
//! transactions, even if they only read (SQLSTATE 0A000). There, `isolation = "repeatable read", read_only` reads one
//! snapshot, and the call retries if the standby cancels it to apply a change. The example always starts two servers of
//! its own.
//!
//! Prints:
//!
//! ```text
//! primary, serializable deferrable: 20 reports, totals {1000}
//! standby, repeatable read: 20 reports, totals {1000}
//! standby, serializable deferrable: cannot use serializable mode in a hot standby (0A000)
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::Pool;
use retry_runtime::{Error, Transaction, transactional};
use retry_tests::{Database, Server, connect, pool, standby};
use tokio::task::JoinSet;

/// Moves a cent from the checking account to the savings account, or back.
#[transactional(isolation = "serializable", deadlock_retries = 100)]
async fn save(tx: &mut Transaction<'_>, cents: i64) -> Result<(), Error> {
    tx.execute("UPDATE checking SET cents = cents - $1", &[&cents]).await?;
    tx.execute("UPDATE savings SET cents = cents + $1", &[&cents]).await?;
    Ok(())
}

/// The total of both tables, which no transaction changes.
async fn total(tx: &Transaction<'_>) -> Result<i64, Error> {
    let checking: i64 = tx.query_one("SELECT sum(cents)::bigint FROM checking", &[]).await?.get(0);
    let savings: i64 = tx.query_one("SELECT sum(cents)::bigint FROM savings", &[]).await?.get(0);
    Ok(checking + savings)
}

#[transactional(isolation = "serializable", read_only, deferrable)]
async fn on_primary(tx: &Transaction<'_>) -> Result<i64, Error> {
    total(tx).await
}

#[transactional(isolation = "repeatable read", read_only)]
async fn on_standby(tx: &Transaction<'_>) -> Result<i64, Error> {
    total(tx).await
}

async fn save_until(done: Arc<AtomicBool>, pool: Pool) -> Result<(), Error> {
    while !done.load(Ordering::Relaxed) {
        save(&pool, 1).await?;
        save(&pool, -1).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let primary = Server::start_with(&["synchronous_commit=on"]).expect("PostgreSQL is installed");
    let copy = primary.standby(&[]).expect("it copies the primary");
    let database = Database::create_on(&primary.config()).await;
    database
        .setup(
            "CREATE TABLE checking (cents bigint); INSERT INTO checking VALUES (1000);
             CREATE TABLE savings (cents bigint); INSERT INTO savings VALUES (0)",
        )
        .await;
    standby::catch_up(&database.client().await, &connect(&copy.config()).await).await;
    let mut config = copy.config();
    config.dbname(database.config().get_dbname().expect("it has a name"));
    let (primary, standby) = (database.pool(4), pool(&config, 1));

    let done = Arc::new(AtomicBool::new(false));
    let writers: JoinSet<_> = (0..2).map(|_| save_until(done.clone(), primary.clone())).collect();
    let (mut on_the_primary, mut on_the_standby) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..20 {
        on_the_primary.insert(on_primary(&primary).await?);
        on_the_standby.insert(on_standby(&standby).await?);
    }
    println!("primary, serializable deferrable: 20 reports, totals {on_the_primary:?}");
    println!("standby, repeatable read: 20 reports, totals {on_the_standby:?}");
    done.store(true, Ordering::Relaxed);
    writers.join_all().await.into_iter().collect::<Result<(), Error>>()?;

    let error = on_primary(&standby).await.expect_err("a standby has no serializable transactions");
    if let Some(cause) = error.as_db_error() {
        println!("standby, serializable deferrable: {} ({})", cause.message(), cause.code().code());
    }
    Ok(())
}
