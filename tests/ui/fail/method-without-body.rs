use retry_runtime::{Error, Transaction, transactional};

trait Bank {
    #[transactional]
    async fn touch(&self, tx: &mut Transaction<'_>) -> Result<(), Error>;
}

fn main() {}
