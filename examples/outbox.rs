//! A transactional outbox: one mail for each order that commits, and none for an attempt that is rolled back.
//!
//! A body that sends a mail itself sends it again in every attempt. So `place_order` only writes the mail to the table
//! `outbox`, in the transaction of the order. `on_commit` then wakes a dispatcher, which claims mails, sends them with no
//! transaction open, and deletes them. A dispatcher also looks for old mails when it starts, because a process can end
//! between the commit and the hook. If it ends between sending and deleting, the mail is sent again: give each mail an
//! id, so that the receiver can tell.
//!
//! Prints (… is a number that varies):
//!
//! ```text
//! 40 orders committed, after … attempts that conflicted and were retried
//! 41 mails sent: one for each order, and one that an earlier process had left
//! left in the outbox: 0
//! ```

use deadpool_postgres::Pool;
use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Takes one item from the stock, which all orders want. Returns the number of the attempt that committed.
#[transactional(isolation = "serializable", deadlock_retries = 100)]
async fn place_order(tx: &mut Transaction<'_>, order: i64, wake: &watch::Sender<()>) -> Result<u32, Error> {
    let stock: i64 = tx.query_one("SELECT quantity FROM stock", &[]).await?.get(0);
    tx.execute("UPDATE stock SET quantity = $1", &[&(stock - 1)]).await?;
    tx.execute("INSERT INTO outbox (id, text) VALUES ($1, 'Thank you for your order')", &[&order]).await?;
    let wake = wake.clone();
    tx.on_commit(async move { wake.send_replace(()) });
    Ok(tx.attempt())
}

/// Claims mails that no dispatcher has, or that a dispatcher has had for a minute.
#[transactional]
async fn claim(tx: &mut Transaction<'_>) -> Result<Vec<(i64, String)>, Error> {
    let claim = "WITH next AS (
                     SELECT id FROM outbox
                     WHERE claimed_at IS NULL OR claimed_at < now() - interval '1 minute'
                     ORDER BY id LIMIT 10 FOR UPDATE SKIP LOCKED)
                 UPDATE outbox SET claimed_at = now() FROM next WHERE outbox.id = next.id RETURNING outbox.id, text";
    Ok(tx.query(claim, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[transactional]
async fn delete(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    tx.execute("DELETE FROM outbox WHERE id = $1", &[&id]).await?;
    Ok(())
}

/// Sends what is in the outbox, then waits to be woken. Ends if the outbox is empty and nothing can wake it any more.
async fn dispatch(pool: Pool, mut woken: watch::Receiver<()>, server: mpsc::UnboundedSender<i64>) -> Result<(), Error> {
    loop {
        let mails = claim(&pool).await?;
        if mails.is_empty() && woken.changed().await.is_err() {
            return Ok(());
        }
        for (id, _text) in mails {
            let _ = server.send(id); // stands for SMTP
            delete(&pool, id).await?;
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let database = Database::create().await;
    database
        .setup(
            "CREATE TABLE stock (quantity bigint); INSERT INTO stock VALUES (100);
             CREATE TABLE outbox (id bigint PRIMARY KEY, text text NOT NULL, claimed_at timestamptz);
             INSERT INTO outbox VALUES (0, 'left by an earlier process')",
        )
        .await;
    let pool = database.pool(8);
    let (wake, woken) = watch::channel(());
    let (server, mut sent) = mpsc::unbounded_channel();
    let dispatchers: JoinSet<_> = (0..2).map(|_| dispatch(pool.clone(), woken.clone(), server.clone())).collect();
    drop(server);

    let mut orders = JoinSet::new();
    for order in 1..=40 {
        let (pool, wake) = (pool.clone(), wake.clone());
        orders.spawn(async move { place_order(&pool, order, &wake).await });
    }
    let attempts = orders.join_all().await.into_iter().sum::<Result<u32, Error>>()?;
    drop(wake);
    dispatchers.join_all().await.into_iter().collect::<Result<(), Error>>()?;
    println!("40 orders committed, after {} attempts that conflicted and were retried", attempts - 40);

    let mut mails = Vec::new();
    while let Some(id) = sent.recv().await {
        mails.push(id);
    }
    mails.sort_unstable();
    assert!(mails.iter().copied().eq(0..=40), "each mail once: {mails:?}");
    println!("{} mails sent: one for each order, and one that an earlier process had left", mails.len());
    let left: i64 = database.value("SELECT count(*) FROM outbox").await;
    println!("left in the outbox: {left}");
    Ok(())
}
