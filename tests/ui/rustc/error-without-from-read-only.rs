use retry_runtime::{Transaction, transactional};

#[derive(Debug)]
struct BankError;

#[transactional(read_only, deadline = "1s")]
async fn total(tx: &mut Transaction<'_>) -> Result<i64, BankError> {
    tx.query_one("SELECT 1::bigint", &[]).await.map(|row| row.get(0)).map_err(|_| BankError)
}

fn main() {}
