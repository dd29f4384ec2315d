//! Holds a queue of `queue = "server"` until it is killed.
//!
//! `hold_queue CONNECTION KEY` prints `inside` once it is in the body of its transaction.

use std::future::pending;

use retry_runtime::{Error, Transaction, transactional};

/// Has the name of the function in `tests/server_queues.rs` that it shares the queues with.
#[transactional(name = "add", queue_by = id, queue = "server")]
async fn hold(_tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    println!("inside");
    pending().await
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let config = args.next().and_then(|config| config.parse().ok()).expect("a connection string");
    let key = args.next().and_then(|key| key.parse().ok()).expect("a key");
    let mut client = retry_tests::connect(&config).await;
    hold(&mut client, key).await.expect("it is killed");
}
