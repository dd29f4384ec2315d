use std::pin::Pin;

use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn array(tx: &mut Transaction<'_>, _: [&mut u32; 2]) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

#[transactional]
async fn option(tx: &mut Transaction<'_>, _: Option<&mut Vec<u32>>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

#[transactional]
async fn slice(tx: &mut Transaction<'_>, _: std::boxed::Box<[(u32, &mut u32)]>) -> Result<(), Error> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

struct Counter;

impl Counter {
    #[transactional]
    async fn count(self: Pin<&mut Self>, tx: &mut Transaction<'_>) -> Result<(), Error> {
        Ok(tx.batch_execute("SELECT 1").await?)
    }
}

fn main() {}
