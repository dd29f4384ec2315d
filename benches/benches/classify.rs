//! What it takes to classify an error, as a server and the driver make it, bare and under other errors.

use std::error::Error;
use std::sync::OnceLock;

use anyhow::Context;
use divan::{Bencher, black_box};
use retry_runtime::{Class, classify};
use retry_tests::{Server, connect};
use tokio_postgres::Client;

/// The errors, in the order of `NAMES`.
static ERRORS: OnceLock<Vec<anyhow::Error>> = OnceLock::new();

const NAMES: [&str; 5] = ["40001", "40001 under three others", "23505", "closed", "no database error"];
const CLASSES: [Option<Class>; 5] =
    [Some(Class::Serialization), Some(Class::Serialization), Some(Class::Fatal), Some(Class::Connection), None];

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let errors = runtime.block_on(errors())?;
    for (error, class) in errors.iter().zip(CLASSES) {
        assert_eq!(classify(error.as_ref()), class, "{error:?}");
    }
    ERRORS.get_or_init(|| errors);
    divan::main();
    Ok(())
}

#[divan::bench(args = NAMES)]
fn of(bencher: Bencher<'_, '_>, name: &str) {
    let index = NAMES.iter().position(|other| *other == name).expect("one of them");
    let errors = ERRORS.get().expect("made by `main`");
    let error: &(dyn Error + 'static) = errors[index].as_ref();
    bencher.bench_local(|| classify(black_box(error)));
}

async fn errors() -> anyhow::Result<Vec<anyhow::Error>> {
    let server = Server::start()?;
    let client = connect(&server.config()).await;
    let nested = Err::<(), _>(raise(&client, "40001").await).context("one").context("two").context("three");
    Ok(vec![
        raise(&client, "40001").await,
        nested.expect_err("made of an error"),
        raise(&client, "23505").await,
        closed(&client).await,
        anyhow::anyhow!("insufficient funds"),
    ])
}

async fn raise(client: &Client, code: &str) -> anyhow::Error {
    let sql = format!("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$");
    client.batch_execute(&sql).await.expect_err("raised").into()
}

/// The error of a connection that is gone, and not that of its end.
async fn closed(client: &Client) -> anyhow::Error {
    let _ = client.batch_execute("SELECT pg_terminate_backend(pg_backend_pid())").await;
    while !client.is_closed() {
        tokio::task::yield_now().await;
    }
    client.batch_execute("").await.expect_err("closed").into()
}
