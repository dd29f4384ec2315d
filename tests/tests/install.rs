//! `install` and `INSTALL_SQL`: the schema `transactional`, the privileges that it needs, and calls without it.
#![allow(missing_docs)]

use futures_util::future::{join_all, try_join_all};
use retry_runtime::{Class, Error, INSTALL_SQL, Transaction, classify, install, transactional};
use retry_tests::calls::dropped_after;
use retry_tests::{Database, connect};
use tokio_postgres::Config;

#[transactional(unknown_commit = "token")]
async fn by_token(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    tx.batch_execute("INSERT INTO done VALUES (1)").await?;
    Ok(tx.attempt())
}

async fn database() -> Database {
    let db = Database::create().await;
    db.setup("CREATE TABLE done (attempt int)").await;
    db
}

/// A role that may neither create anything in this database nor read its tables.
async fn unprivileged(db: &Database) -> Config {
    let mut config = db.config().clone();
    let role = format!("unprivileged_in_{}", config.get_dbname().unwrap());
    db.setup(&format!("CREATE ROLE {role} LOGIN")).await;
    config.user(&role);
    config
}

async fn drop_role(db: &Database, unprivileged: &Config) {
    let role = unprivileged.get_user().unwrap();
    db.setup(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn concurrent_installs_succeed() {
    let db = database().await;
    for nothing in ["DROP SCHEMA IF EXISTS transactional CASCADE", "DROP TABLE transactional.commits"] {
        for _ in 0..10 {
            db.setup(nothing).await;
            let clients = join_all((0..8).map(|_| db.client())).await;
            try_join_all(clients.iter().map(install)).await.unwrap();
            assert_eq!(by_token(&db.pool(1)).await.unwrap(), 1);
        }
    }
    db.setup(INSTALL_SQL).await;
    assert!(db.value::<i64>("SELECT count(*) FROM transactional.commits").await > 0, "running it again keeps the rows");
}

/// A call that was dropped half-way leaves the schema without the table.
#[tokio::test]
async fn install_can_be_dropped_at_any_await() {
    let db = database().await;
    let mut polls = 0;
    loop {
        db.setup("DROP SCHEMA IF EXISTS transactional CASCADE").await;
        let is_done = dropped_after(install(&db.client().await), polls).await;
        install(&db.client().await).await.unwrap();
        assert_eq!(by_token(&db.pool(1)).await.unwrap(), 1, "after {polls} polls");
        if is_done {
            break;
        }
        polls += 1;
    }
    assert!(polls > 2, "each statement has been interrupted");
}

#[tokio::test]
async fn install_needs_no_privilege_for_what_exists() {
    let db = database().await;
    let unprivileged = unprivileged(&db).await;
    let role = unprivileged.get_user().unwrap();
    let client = connect(&unprivileged).await;
    assert!(install(&client).await.is_err(), "it may not create a schema");
    db.setup(&format!("CREATE SCHEMA transactional; GRANT CREATE, USAGE ON SCHEMA transactional TO {role}")).await;
    install(&client).await.unwrap();
    db.setup(&format!("REVOKE CREATE ON SCHEMA transactional FROM {role}")).await;
    install(&client).await.unwrap();
    drop_role(&db, &unprivileged).await;
}

/// `INSERT` and `COMMIT` travel in one message, but the outcome is known.
#[tokio::test]
async fn without_the_table_a_call_is_rolled_back() {
    let db = database().await;
    let unprivileged = unprivileged(&db).await;
    let role = unprivileged.get_user().unwrap();
    let pool = retry_tests::pool(&unprivileged, 1);
    db.setup(&format!("GRANT INSERT ON done TO {role}")).await;
    for (make, code) in [
        ("SELECT", "42P01"),
        ("CREATE SCHEMA transactional", "42501"),
        (&*format!("GRANT USAGE ON SCHEMA transactional TO {role}"), "42P01"),
        (INSTALL_SQL, "42501"),
    ] {
        db.setup(make).await;
        let error = by_token(&pool).await.unwrap_err();
        assert!(matches!(&error, Error::Postgres(source) if source.code().unwrap().code() == code), "{error:?}");
        assert!(error.as_db_error().is_some());
        assert_eq!(classify(&error), Some(Class::Fatal));
        assert_eq!(db.open_transactions().await, 0);
    }
    assert_eq!(db.value::<i64>("SELECT count(*) FROM done").await, 0);
    db.setup(&format!("GRANT SELECT, INSERT ON transactional.commits TO {role}")).await;
    assert_eq!(by_token(&pool).await.unwrap(), 1);
    drop_role(&db, &unprivileged).await;
}
