//! Functions that do not survive a retry, found by tests with faults, and the mended functions.
//!
//! Each function below passes a test in which its first attempt commits. `with_faults` makes that attempt fail on the
//! server, and what the attempt did outside of its transaction stays. To check a whole test suite as it is, run it with
//! `RETRY_FAULTS=conflict-once` and with `RETRY_FAULTS=commit-lost-once`. Run this example with `--features testing`.
//!
//! Prints:
//!
//! ```text
//! mail sent in the body: 1 without a fault, 2 after a conflict; with on_commit: 1 and 1
//! static counter: 1 without a fault, 2 after a conflict; with on_commit: 1 and 1
//! allow_mut: 1 without a fault, 2 after a conflict; with a returned value: 1 and 1
//! unknown_commit = "retry": 1 without a fault, 2 after a COMMIT without a reply; with "token": 1 and 1
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use deadpool_postgres::Pool;
use retry_runtime::testing::{Fault, Plan, with_faults};
use retry_runtime::{Error, Transaction, install, transactional};
use retry_tests::Database;

const INSERT: &str = "INSERT INTO payments DEFAULT VALUES";

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

type Mails = std::sync::Arc<AtomicU64>; // stands for a mail server: how many were sent

#[transactional]
async fn mail_in_body(tx: &mut Transaction<'_>, mails: &Mails) -> Result<u64, Error> {
    add(mails); // sent, even if the attempt is rolled back
    Ok(tx.execute(INSERT, &[]).await?)
}

#[transactional]
async fn mail_after_commit(tx: &mut Transaction<'_>, mails: &Mails) -> Result<u64, Error> {
    let mails = mails.clone();
    tx.on_commit(async move { add(&mails) });
    Ok(tx.execute(INSERT, &[]).await?)
}

static PAYMENTS: AtomicU64 = AtomicU64::new(0);

#[transactional]
async fn counted(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    add(&PAYMENTS); // an atomic is not rolled back
    Ok(tx.execute(INSERT, &[]).await?)
}

#[transactional]
async fn counted_after_commit(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    tx.on_commit(async { add(&PAYMENTS) });
    Ok(tx.execute(INSERT, &[]).await?)
}

#[transactional(allow_mut)]
async fn add_rows(tx: &mut Transaction<'_>, rows: &mut u64) -> Result<(), Error> {
    *rows += tx.execute(INSERT, &[]).await?; // an attempt that is rolled back leaves its rows in the sum
    Ok(())
}

#[transactional(unknown_commit = "retry")] // for bodies that may be applied twice, and this one may not
async fn paid_twice(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    Ok(tx.execute(INSERT, &[]).await?)
}

#[transactional(unknown_commit = "token")]
async fn paid_once(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    Ok(tx.execute(INSERT, &[]).await?) // for the caller to add
}

/// What each of the functions leaves behind.
async fn observe(pool: &Pool, db: &Database) -> Result<[u64; 8], Error> {
    let (in_body, after_commit, mut added) = (Mails::default(), Mails::default(), 0);
    mail_in_body(pool, &in_body).await?;
    mail_after_commit(pool, &after_commit).await?;
    counted(pool).await?;
    let counted = PAYMENTS.swap(0, Ordering::Relaxed);
    counted_after_commit(pool).await?;
    add_rows(pool, &mut added).await?;
    let client = db.client().await;
    let rows = || client.execute("DELETE FROM payments", &[]);
    rows().await?;
    paid_twice(pool).await?;
    let twice = rows().await?;
    let returned = paid_once(pool).await?;
    let once = rows().await?;
    let [in_body, after_commit] = [in_body, after_commit].map(|mails| mails.load(Ordering::Relaxed));
    Ok([in_body, after_commit, counted, PAYMENTS.swap(0, Ordering::Relaxed), added, returned, twice, once])
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let db = Database::create().await;
    db.setup("CREATE TABLE payments (id bigint GENERATED ALWAYS AS IDENTITY)").await;
    install(&db.client().await).await?;
    let pool = db.pool(2);
    let quiet = observe(&pool, &db).await?;
    let conflict = with_faults(Plan::new(Fault::SerializationFailure), observe(&pool, &db)).await?;
    let no_reply = Plan::new(Fault::CommitUnknown { committed: true }).of(&["paid_twice", "paid_once"]);
    let no_reply = with_faults(no_reply, observe(&pool, &db)).await?;
    let rows = [
        ("mail sent in the body", "a conflict", "on_commit", conflict),
        ("static counter", "a conflict", "on_commit", conflict),
        ("allow_mut", "a conflict", "a returned value", conflict),
        ("unknown_commit = \"retry\"", "a COMMIT without a reply", "\"token\"", no_reply),
    ];
    for (row, (function, fault, cure, found)) in rows.into_iter().enumerate() {
        let [[quiet, found], [mended, mended_found]] = [2 * row, 2 * row + 1].map(|index| [quiet[index], found[index]]);
        println!(
            "{function}: {quiet} without a fault, {found} after {fault}; with {cure}: {mended} and {mended_found}"
        );
    }
    Ok(())
}
