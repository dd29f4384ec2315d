use retry_runtime::{Error, Transaction, transactional};

#[transactional]
fn touch(tx: &mut Transaction<'_>) -> impl Future<Output = Result<(), Error>> {
    async { Ok(tx.batch_execute("SELECT 1").await?) }
}

fn main() {}
