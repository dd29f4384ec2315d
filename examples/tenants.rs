//! Row-level security: the rows of several tenants in one table, on pooled connections that all tenants share.
//!
//! `enter` takes on a role with fewer rights and names the tenant, both until the transaction ends. Then the connection
//! forgets them, so its next borrower never acts as this tenant. The body calls `enter`, so every attempt does. The
//! policy applies to every statement: a query that forgets its `WHERE` still sees the rows of one tenant only.
//!
//! Prints:
//!
//! ```text
//! 2 tenants wrote 80 notes at once, on 2 connections
//! acme reads 40 notes, all its own
//! globex reads 40 notes, all its own
//! acme writes a note for globex: 42501
//! without a tenant: 0 notes
//! after the transactions: the login role, tenant ''
//! ```

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use tokio::task::JoinSet;

/// Row-level security does not apply to superusers and the owner of the table, so there is a role for the service.
const SCHEMA: &str = "
    CREATE TABLE notes (tenant text NOT NULL, text text NOT NULL);
    ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
    CREATE POLICY of_tenant ON notes USING (tenant = current_setting('app.tenant', true));
    CREATE ROLE notes_app;
    GRANT SELECT, INSERT ON notes TO notes_app";

/// Acts as this tenant until the transaction ends: `true` makes it a `SET LOCAL`.
async fn enter(tx: &Transaction<'_>, tenant: &str) -> Result<(), Error> {
    tx.execute("SELECT set_config('role', 'notes_app', true), set_config('app.tenant', $1, true)", &[&tenant]).await?;
    Ok(())
}

#[transactional]
async fn write(tx: &mut Transaction<'_>, tenant: &str, owner: &str) -> Result<(), Error> {
    enter(tx, tenant).await?;
    tx.execute("INSERT INTO notes VALUES ($1, 'a secret')", &[&owner]).await?;
    Ok(())
}

/// The owners of all notes that the tenant sees.
#[transactional(read_only)]
async fn read(tx: &Transaction<'_>, tenant: &str) -> Result<Vec<String>, Error> {
    enter(tx, tenant).await?;
    Ok(tx.query("SELECT tenant FROM notes", &[]).await?.iter().map(|row| row.get(0)).collect())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let database = Database::create().await;
    database.setup(SCHEMA).await;
    let pool = database.pool(2);

    let mut tasks = JoinSet::new();
    for number in 0..80 {
        let (pool, tenant) = (pool.clone(), if number % 2 == 0 { "acme" } else { "globex" });
        tasks.spawn(async move { write(&pool, tenant, tenant).await });
    }
    tasks.join_all().await.into_iter().collect::<Result<(), Error>>()?;
    println!("2 tenants wrote 80 notes at once, on 2 connections");

    for tenant in ["acme", "globex"] {
        let owners = read(&pool, tenant).await?;
        let own = if owners.iter().all(|owner| owner == tenant) { "all its own" } else { "some of others" };
        println!("{tenant} reads {} notes, {own}", owners.len());
    }
    let error = write(&pool, "acme", "globex").await.expect_err("the policy forbids it");
    println!(
        "acme writes a note for globex: {}",
        error.as_db_error().map_or("no SQLSTATE", |error| error.code().code())
    );
    println!("without a tenant: {} notes", read(&pool, "").await?.len());

    let client = pool.get().await.expect("a connection is free");
    let sql = "SELECT CASE current_user WHEN session_user THEN 'the login role' ELSE current_user END,
                      coalesce(current_setting('app.tenant', true), '')";
    let row = client.query_one(sql, &[]).await?;
    println!("after the transactions: {}, tenant '{}'", row.get::<_, &str>(0), row.get::<_, &str>(1));

    // A role belongs to the whole server. Everything else goes with the database.
    database.setup("DROP OWNED BY notes_app; DROP ROLE notes_app").await;
    Ok(())
}
