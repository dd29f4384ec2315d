//! An order with two optional steps: loyalty points and a coupon. If one of them fails, the order stands without it.
//!
//! A failed statement aborts the whole transaction, so each optional step runs in a savepoint. `add_points` is a nested
//! call: with `&mut *tx` it becomes a savepoint. The coupon is a savepoint that the body begins itself, with
//! `tx.transaction()`. Only the step is rolled back. A conflict in a step is different: it ends the attempt, and the
//! whole order is retried.
//!
//! Prints:
//!
//! ```text
//! order 1: 400 cents
//! order 2: 50 cents (the coupon is worth more than the order)
//! order 3: 500 cents (Bob has no loyalty account)
//! order 4: product 9 is sold out
//! 3 orders; Ann has 200 points; coupons used: 1; in stock: 2
//! ```

use retry_runtime::{Transaction, transactional};
use retry_tests::Database;
use tokio_postgres::error::SqlState;

#[derive(Debug, thiserror::Error)]
enum ShopError {
    #[error("product {0} is sold out")]
    SoldOut(i64),
    #[error("{0} has no loyalty account")]
    NoAccount(String),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Transaction(#[from] retry_runtime::Error),
}

#[transactional]
async fn add_points(tx: &mut Transaction<'_>, customer: &str, points: i64) -> Result<(), ShopError> {
    let add = "UPDATE loyalty SET points = points + $1 WHERE customer = $2";
    match tx.execute(add, &[&points, &customer]).await? {
        0 => Err(ShopError::NoAccount(customer.to_owned())),
        _ => Ok(()),
    }
}

/// Returns the price, and which optional steps have failed.
#[transactional]
async fn place_order(
    tx: &mut Transaction<'_>,
    order: i64,
    customer: &str,
    product: i64,
    mut cents: i64,
) -> Result<(i64, Vec<String>), ShopError> {
    tx.execute("INSERT INTO orders VALUES ($1, $2, $3)", &[&order, &customer, &cents]).await?;
    let take = "UPDATE stock SET quantity = quantity - 1 WHERE product = $1 AND quantity > 0";
    if tx.execute(take, &[&product]).await? == 0 {
        return Err(ShopError::SoldOut(product)); // rolls everything back
    }

    let mut failed = Vec::new();
    if let Err(error) = add_points(&mut *tx, customer, 100).await {
        failed.push(error.to_string());
    }

    let savepoint = tx.transaction().await?;
    savepoint.execute("UPDATE coupons SET used = used + 1 WHERE customer = $1", &[&customer]).await?;
    let discount = "UPDATE orders SET cents = cents - 100
                    FROM coupons WHERE id = $1 AND orders.customer = coupons.customer RETURNING cents";
    match savepoint.query_opt(discount, &[&order]).await {
        Ok(Some(row)) => {
            cents = row.get(0);
            savepoint.commit().await?;
        }
        Ok(None) => savepoint.rollback().await?, // no coupon
        Err(error) if error.code() == Some(&SqlState::CHECK_VIOLATION) => {
            savepoint.rollback().await?; // the coupon is not used
            failed.push("the coupon is worth more than the order".to_owned());
        }
        Err(error) => return Err(error.into()),
    }
    Ok((cents, failed))
}

#[tokio::main]
async fn main() -> Result<(), ShopError> {
    let database = Database::create().await;
    database
        .setup(
            "CREATE TABLE orders (id bigint PRIMARY KEY, customer text, cents bigint CHECK (cents >= 0));
             CREATE TABLE stock (product bigint PRIMARY KEY, quantity bigint); INSERT INTO stock VALUES (7, 5);
             CREATE TABLE loyalty (customer text PRIMARY KEY, points bigint); INSERT INTO loyalty VALUES ('Ann', 0);
             CREATE TABLE coupons (customer text PRIMARY KEY, used bigint); INSERT INTO coupons VALUES ('Ann', 0)",
        )
        .await;
    let pool = database.pool(2);

    for (order, customer, product, cents) in
        [(1, "Ann", 7, 500), (2, "Ann", 7, 50), (3, "Bob", 7, 500), (4, "Ann", 9, 500)]
    {
        match place_order(&pool, order, customer, product, cents).await {
            Ok((cents, failed)) if failed.is_empty() => println!("order {order}: {cents} cents"),
            Ok((cents, failed)) => println!("order {order}: {cents} cents ({})", failed.join(", ")),
            Err(error) => println!("order {order}: {error}"),
        }
    }

    let orders: i64 = database.value("SELECT count(*) FROM orders").await;
    let points: i64 = database.value("SELECT points FROM loyalty").await;
    let used: i64 = database.value("SELECT used FROM coupons").await;
    let stock: i64 = database.value("SELECT quantity FROM stock").await;
    println!("{orders} orders; Ann has {points} points; coupons used: {used}; in stock: {stock}");
    Ok(())
}
