//! `assert_retry_safe`: what it finds, and what it accepts.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use deadpool_postgres::Pool;
use futures_util::FutureExt;
use retry_runtime::testing::assert_retry_safe;
use retry_runtime::{Error, Transaction, install, transactional};
use retry_tests::Database;

const TABLES: [&str; 2] = ["customers", "orders"];

const INSERT: &str = "INSERT INTO orders (customer, cents) VALUES (1, 500)";

macro_rules! order {
    ($($name:ident $(, $option:meta)*;)*) => {$(
        #[transactional(base_delay = "250us", max_delay = "1ms" $(, $option)*)]
        async fn $name(tx: &mut Transaction<'_>) -> Result<u64, Error> {
            tx.execute("UPDATE customers SET orders = orders + 1 WHERE id = 1", &[]).await?;
            Ok(tx.execute(INSERT, &[]).await?)
        }
    )*};
}

order! {
    order;
    order_without_retries, retries = 0, deadlock_retries = 0;
    order_twice, unknown_commit = "retry";
    order_with_token, unknown_commit = "token";
}

#[transactional(base_delay = "250us", max_delay = "1ms")]
async fn order_and_mail(tx: &mut Transaction<'_>, mails: &AtomicU32) -> Result<(), Error> {
    mails.fetch_add(1, Ordering::Relaxed);
    tx.execute(INSERT, &[]).await?;
    Ok(())
}

#[transactional(base_delay = "250us", max_delay = "1ms")]
async fn order_then_mail(tx: &mut Transaction<'_>, mails: &Arc<AtomicU32>) -> Result<(), Error> {
    let mails = mails.clone();
    tx.on_commit(async move {
        mails.fetch_add(1, Ordering::Relaxed);
    });
    tx.execute(INSERT, &[]).await?;
    Ok(())
}

/// Writes what an earlier attempt has left in memory.
#[transactional(base_delay = "250us", max_delay = "1ms")]
async fn order_next(tx: &mut Transaction<'_>, next: &AtomicU32) -> Result<u64, Error> {
    let cents = i64::from(next.fetch_add(1, Ordering::Relaxed));
    Ok(tx.execute("INSERT INTO orders (customer, cents) VALUES (1, $1)", &[&cents]).await?)
}

/// Registers its hook in the first attempt only.
#[transactional(base_delay = "250us", max_delay = "1ms")]
async fn order_with_hook(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    if tx.attempt() == 1 {
        tx.on_commit(async {});
    }
    Ok(tx.execute(INSERT, &[]).await?)
}

/// The tables have numbers of a sequence, times, references and texts that need quotes.
async fn setup() -> (Database, Pool) {
    let db = Database::create().await;
    db.setup(
        "CREATE TABLE customers (id bigint PRIMARY KEY, name text, orders int);
         CREATE TABLE orders (
             id bigint GENERATED ALWAYS AS IDENTITY, number serial, customer bigint NOT NULL REFERENCES customers,
             cents bigint, euros numeric GENERATED ALWAYS AS (cents / 100.0) STORED, placed timestamptz DEFAULT now());
         INSERT INTO customers VALUES (1, 'O''Neil \\ \"$$\"', 1), (2, NULL, 0);
         INSERT INTO orders (customer, cents) VALUES (1, 100)",
    )
    .await;
    install(&db.client().await).await.unwrap();
    let pool = db.pool(1);
    (db, pool)
}

/// With what message it panics.
async fn refusal(check: impl Future<Output = ()>) -> String {
    let panic = AssertUnwindSafe(check).catch_unwind().await.expect_err("it accepts the call");
    *panic.downcast::<String>().expect("a formatted message")
}

#[tokio::test]
async fn safe_functions_pass_and_the_rows_are_restored() {
    let (db, pool) = setup().await;
    let rows =
        "SELECT json_build_array((SELECT json_agg(c) FROM customers c), (SELECT json_agg(o) FROM orders o))::text";
    let before: String = db.value(rows).await;
    assert_retry_safe(&pool, &TABLES, || order(&pool)).await;
    assert_retry_safe(&pool, &TABLES, || order_with_token(&pool)).await;
    let mailed = || async {
        let mails = Arc::default();
        order_then_mail(&pool, &mails).await?;
        Ok::<_, Error>(mails.load(Ordering::Relaxed))
    };
    assert_retry_safe(&pool, &TABLES, mailed).await;
    assert_eq!(db.value::<String>(rows).await, before);
}

#[tokio::test]
async fn effects_outside_of_the_transaction_are_found() {
    let (_db, pool) = setup().await;
    let mailed = || async {
        let mails = AtomicU32::new(0);
        order_and_mail(&pool, &mails).await?;
        Ok::<_, Error>(mails.into_inner())
    };
    let message = refusal(assert_retry_safe(&pool, &TABLES, mailed)).await;
    let expected = "not safe to retry: after a fault (serialization failure before COMMIT), the call returned 2 instead of 1; \
                    what a body does outside of its transaction happens in each attempt: defer it with `on_commit`, or \
                    return it";
    assert_eq!(message, expected);
    let message =
        refusal(assert_retry_safe(&pool, &TABLES, || async { order_next(&pool, &AtomicU32::new(7)).await })).await;
    let expected = "not safe to retry: after a fault (serialization failure before COMMIT), table orders has other values \
                    (column cents); the body depends on what an earlier attempt has left outside of the transaction";
    assert_eq!(message, expected);
}

#[tokio::test]
async fn hooks_that_do_not_run_are_found() {
    let (_db, pool) = setup().await;
    let message = refusal(assert_retry_safe(&pool, &TABLES, || order_with_hook(&pool))).await;
    let expected = "not safe to retry: after a fault (serialization failure before COMMIT), the commit ran 0 hooks instead of \
                    1; register the same hooks in each attempt";
    assert_eq!(message, expected);
}

#[tokio::test]
async fn a_body_that_is_applied_twice_is_found() {
    let (_db, pool) = setup().await;
    let message = refusal(assert_retry_safe(&pool, &TABLES, || order_twice(&pool))).await;
    let expected = "not safe to retry: after a fault (commit unknown, committed), table customers has other values (column \
                    orders); the body was applied twice: use `unknown_commit = \"token\"` or `\"resolve\"`, or make it \
                    idempotent";
    assert_eq!(message, expected);
    let message = refusal(assert_retry_safe(&pool, &["orders"], || order_twice(&pool))).await;
    assert!(message.contains("table orders has 3 rows instead of 2; the body was applied twice"), "{message}");
}

#[tokio::test]
async fn two_transactions_are_not_one() {
    let (_db, pool) = setup().await;
    let both = || async { Ok::<_, Error>(order(&pool).await? + order(&pool).await?) };
    let message = refusal(assert_retry_safe(&pool, &["orders"], both)).await;
    let expected =
        "neither all nor nothing: after a fault (commit unknown, committed), table orders has 2 rows instead of 3";
    assert!(message.starts_with(expected), "{message}");
    let message = refusal(assert_retry_safe(&pool, &["orders"], || async {
        let placed = order_with_token(&pool).await?;
        Ok::<_, Error>(placed + order_with_token(&pool).await?)
    }))
    .await;
    assert!(message.starts_with("neither all nor nothing: after a drop at poll "), "{message}");
}

#[tokio::test]
async fn functions_that_cannot_be_checked_are_refused() {
    let (_db, pool) = setup().await;
    let message = refusal(assert_retry_safe(&pool, &TABLES, || order_without_retries(&pool))).await;
    assert!(message.starts_with("not retried: after a fault (serialization failure before COMMIT)"), "{message}");
    let calls = AtomicU32::new(0);
    let counted = || async {
        order(&pool).await?;
        Ok::<_, Error>(calls.fetch_add(1, Ordering::Relaxed))
    };
    let message = refusal(assert_retry_safe(&pool, &TABLES, counted)).await;
    assert!(message.starts_with("without a fault the call returned 0, and then 1"), "{message}");
}
