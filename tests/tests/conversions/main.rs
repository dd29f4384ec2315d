//! Code bases on tokio-postgres, converted function by function: a module for each shape of code.

mod generated;
mod generated_client;
mod handlers;
mod issue_data;
mod repository;
mod run_tx;
mod statements;

use deadpool_postgres::Pool;
use retry_tests::Database;

/// Another transaction that changes account 1, for a conflict with one that has read it.
const CHANGE: &str = "UPDATE accounts SET cents = cents + 1 WHERE id = 1";

/// Two accounts with 100 cents each.
async fn bank(connections: usize) -> (Database, Pool) {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    let pool = db.pool(connections);
    (db, pool)
}
