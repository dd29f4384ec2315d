use retry_runtime::{Error, transactional};

struct Bank;

#[transactional]
async fn none() -> Result<(), Error> {
    Ok(())
}

#[transactional]
async fn other(id: i64) -> Result<i64, Error> {
    Ok(id)
}

impl Bank {
    #[transactional]
    async fn only_self(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn main() {}
