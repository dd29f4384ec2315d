//! The forms of function that `#[transactional]` accepts. Half of the test is that they compile.

mod bodies;
mod errors;
mod methods;
mod options;
mod parameters;

use deadpool_postgres::Pool;
use retry_runtime::Error;
use retry_tests::Database;

const CENTS: &str = "SELECT cents FROM accounts WHERE id = $1";

#[derive(Debug, thiserror::Error)]
enum BankError {
    #[error("stale")]
    Stale,
    #[error("not a number")]
    NotANumber(#[from] std::num::ParseIntError),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Runtime(#[from] Error),
}

impl BankError {
    fn is_stale(&self) -> bool {
        matches!(self, Self::Stale)
    }
}

type Result<T, E = BankError> = std::result::Result<T, E>;

async fn bank(size: usize) -> (Database, Pool) {
    let db = Database::create().await;
    db.accounts(3, 100).await;
    let pool = db.pool(size);
    (db, pool)
}
