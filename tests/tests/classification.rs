//! Classification of failures, code by code. The server raises each code: by the failure itself if PostgreSQL can
//! produce it, or by `RAISE` if only related servers and poolers do.
#![allow(missing_docs)]

use retry_runtime::{Class, Error, PoolError, classify};
use retry_tests::rival::{Rival, terminate, wait_until};
use retry_tests::{Database, FAULT_TABLES};
use tokio_postgres::error::Severity;
use tokio_postgres::{Client, Config, NoTls};

type PgError = tokio_postgres::Error;

#[track_caller]
fn assert_class(error: &PgError, code: &str, class: Class) {
    assert_eq!(error.code().unwrap_or_else(|| panic!("{error:?}")).code(), code, "{error:?}");
    assert_eq!(classify(error), Some(class), "{error:?}");
}

#[track_caller]
fn assert_fatal(error: &PgError, code: &str, class: Class) {
    assert_eq!(error.as_db_error().unwrap().parsed_severity(), Some(Severity::Fatal));
    assert_class(error, code, class);
}

async fn failure(client: &Client, sql: &str) -> PgError {
    let error = client.batch_execute(sql).await.expect_err(sql);
    client.batch_execute("ROLLBACK").await.unwrap();
    error
}

#[tokio::test]
async fn statement_errors_have_their_class() {
    let db = Database::create().await;
    db.accounts(1, 100).await;
    let client = db.client().await;
    for (code, class, sql) in [
        ("25006", Class::ReadOnly, "BEGIN READ ONLY; UPDATE accounts SET cents = 0"),
        ("26000", Class::StalePlan, "EXECUTE no_such_statement"),
        ("25001", Class::Fatal, "BEGIN; SELECT 1; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
        ("23505", Class::Fatal, "INSERT INTO accounts VALUES (1, 0)"),
        ("23502", Class::Fatal, "INSERT INTO accounts VALUES (2, NULL)"),
        ("42601", Class::Fatal, "INVALID TXN STATEMENT"),
        ("42P01", Class::Fatal, "SELECT FROM nowhere"),
        ("42501", Class::Fatal, "BEGIN; CREATE ROLE guest; SET LOCAL ROLE guest; SELECT FROM accounts"),
        ("57014", Class::Fatal, "BEGIN; SET LOCAL statement_timeout = 1; SELECT pg_sleep(9)"),
        ("0A000", Class::Fatal, "SELECT count(*) FROM accounts FOR UPDATE"),
        ("22012", Class::Fatal, "SELECT 1 / 0"),
    ] {
        assert_class(&failure(&client, sql).await, code, class);
    }
    let in_use = format!("DROP DATABASE {}", db.config().get_dbname().unwrap());
    assert_class(&failure(&client, &in_use).await, "55006", Class::Lock);
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("SELECT 1 / 0").await.unwrap_err();
    assert_class(&client.batch_execute("SELECT 1").await.unwrap_err(), "25P02", Class::Fatal);
}

#[tokio::test]
async fn conflicts_have_their_class() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    let (client, rival) = (db.client().await, Rival::connect(&db).await);

    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM accounts").await.unwrap();
    rival.run("UPDATE accounts SET cents = 1 WHERE id = 1").await;
    let error = failure(&client, "UPDATE accounts SET cents = 2 WHERE id = 1").await;
    assert_class(&error, "40001", Class::Serialization);

    rival.run("BEGIN; UPDATE accounts SET cents = 1 WHERE id = 1").await;
    let error = failure(&client, "SELECT FROM accounts WHERE id = 1 FOR UPDATE NOWAIT").await;
    assert_class(&error, "55P03", Class::Lock);

    client.batch_execute("BEGIN; UPDATE accounts SET cents = 2 WHERE id = 2").await.unwrap();
    let blocked = rival.block_on("UPDATE accounts SET cents = 1 WHERE id = 2").await;
    let error = failure(&client, "UPDATE accounts SET cents = 2 WHERE id = 1").await;
    assert_class(&error, "40P01", Class::Deadlock);
    blocked.await.unwrap().unwrap();
}

/// Servers related to PostgreSQL have codes of their own, and poolers messages of their own.
#[tokio::test]
async fn codes_of_related_servers_and_messages_of_poolers_have_their_class() {
    let db = Database::create().await;
    let client = db.client().await;
    for (code, class, text) in [
        ("CR000", Class::Serialization, "restart transaction"),
        ("OC000", Class::Serialization, "change conflicts_have_their_class with another transaction"),
        ("OC001", Class::Serialization, "schema has been updated by another transaction"),
        ("08000", Class::Connection, "connection exception"),
        ("08001", Class::Connection, "unable to establish connection"),
        ("08003", Class::Connection, "connection does not exist"),
        ("08004", Class::Connection, "rejected establishment of connection"),
        ("08006", Class::Connection, "connection failure"),
        ("57P01", Class::Connection, "terminating connection"),
        ("57P02", Class::Connection, "crash shutdown"),
        ("57P03", Class::Connection, "the database system is starting up"),
        ("57P05", Class::Connection, "terminating connection due to idle-session timeout"),
        ("25P03", Class::Connection, "terminating connection due to idle-in-transaction timeout"),
        ("53300", Class::Capacity, "sorry, too many clients already"),
        ("08P01", Class::Capacity, "query_wait_timeout"),
        ("08P01", Class::Capacity, "no more connections allowed (max_client_conn)"),
        ("08P01", Class::Connection, "server conn crashed?"),
        ("08P01", Class::Connection, "server login has been failing, try again later (server_login_retry)"),
        ("08P01", Class::Connection, "server shutting down"),
        ("08P01", Class::Connection, "pooler is shutting down"),
        ("08P01", Class::Fatal, "no such database: bank"),
        ("08P01", Class::Fatal, "trust authentication failed"),
        ("08P01", Class::Fatal, "invalid message format"),
        ("0A000", Class::StalePlan, "cached plan must not change result type"),
        ("XX000", Class::Serialization, "could not commit transaction for shard 102008 on at least one active node"),
        ("08007", Class::CommitUnknown, "transaction resolution unknown"),
        ("40003", Class::CommitUnknown, "result is ambiguous"),
        ("40002", Class::Fatal, "transaction integrity constraint violation"),
        ("53100", Class::Fatal, "could not extend file"),
        ("53200", Class::Fatal, "out of memory"),
        ("58030", Class::Fatal, "io error"),
        ("XX000", Class::Fatal, "internal error"),
        ("P0001", Class::Fatal, "raised"),
    ] {
        let sql = format!("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = '{text}'; END $$");
        assert_class(&failure(&client, &sql).await, code, class);
    }
}

/// The session itself uses the table, and would in another attempt too. The message may be translated, so the name of the
/// server's function decides.
#[tokio::test]
async fn a_table_that_the_session_itself_uses_is_fatal() {
    let db = Database::create().await;
    db.setup(FAULT_TABLES).await;
    let client = db.client().await;
    for in_use in ["INSERT INTO at_commit VALUES ('SELECT 1')", "DECLARE rows CURSOR FOR SELECT FROM at_commit"] {
        let error = failure(&client, &format!("BEGIN; {in_use}; ALTER TABLE at_commit ADD COLUMN b int")).await;
        assert_class(&error, "55006", Class::Fatal);
        assert_eq!(error.as_db_error().unwrap().routine(), Some("CheckTableNotInUse"));
    }
}

/// `exit_on_error` turns every ERROR into FATAL, so FATAL can have any code.
#[tokio::test]
async fn errors_that_end_the_session_have_their_class() {
    let db = Database::create().await;
    for (code, class) in [
        ("25P04", Class::Fatal),
        ("25P03", Class::Connection),
        ("40001", Class::Connection),
        ("53100", Class::Connection),
        ("57P05", Class::Connection),
        ("53300", Class::Capacity),
        ("22023", Class::Fatal),
    ] {
        let client = db.client().await;
        client.batch_execute("SET exit_on_error = on").await.unwrap();
        let raise = format!("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$");
        assert_fatal(&client.batch_execute(&raise).await.unwrap_err(), code, class);
    }
}

/// The message may be translated, so the name of the server's function decides.
#[tokio::test]
async fn a_stale_plan_is_recognized_in_any_language() {
    let db = Database::create().await;
    db.setup("CREATE TABLE things (a int)").await;
    let client = db.client().await;
    let statement = client.prepare("SELECT * FROM things").await.unwrap();
    db.setup("ALTER TABLE things ADD COLUMN b int").await;
    let error = client.query(&statement, &[]).await.unwrap_err();
    assert_class(&error, "0A000", Class::StalePlan);
    assert_eq!(error.as_db_error().unwrap().routine(), Some("RevalidateCachedQuery"));
}

#[tokio::test]
async fn a_terminated_session_is_a_connection_failure() {
    let db = Database::create().await;
    let observer = db.client().await;

    let (client, pid) = client_and_pid(&db).await;
    let sleep = client.batch_execute("SELECT pg_sleep(60)");
    let end = async {
        wait_until(&observer, "wait_event = 'PgSleep'", pid).await;
        terminate(&observer, pid).await;
    };
    let (slept, ()) = tokio::join!(sleep, end);
    assert_fatal(&slept.unwrap_err(), "57P01", Class::Connection);
    let error = client.batch_execute("SELECT 1").await.unwrap_err();
    assert!(error.is_closed());
    assert_eq!(classify(&error), Some(Class::Connection));
}

async fn client_and_pid(db: &Database) -> (Client, i32) {
    let client = db.client().await;
    let pid = retry_tests::rival::pid(&client).await;
    (client, pid)
}

/// A refused login is FATAL. It is retried only if the refusal may be temporary.
#[tokio::test]
async fn refused_logins_have_their_class() {
    let db = Database::create().await;
    db.setup(
        "CREATE ROLE limited LOGIN CONNECTION LIMIT 0; CREATE ROLE stranger LOGIN;
         DO $$ BEGIN EXECUTE 'REVOKE CONNECT ON DATABASE ' || current_database() || ' FROM PUBLIC'; END $$",
    )
    .await;
    let refused = async |change: fn(&mut Config) -> &mut Config| {
        let mut config = db.config().clone();
        change(&mut config);
        config.connect(NoTls).await.err().expect("a refusal")
    };
    assert_fatal(&refused(|config| config.user("no_such_user")).await, "28000", Class::Fatal);
    assert_fatal(&refused(|config| config.dbname("no_such_database")).await, "3D000", Class::Fatal);
    assert_fatal(&refused(|config| config.options("-c no_such_setting=1")).await, "42704", Class::Fatal);
    assert_fatal(&refused(|config| config.options("-c work_mem=lots")).await, "22023", Class::Fatal);
    assert_fatal(&refused(|config| config.user("stranger")).await, "42501", Class::Fatal);
    db.setup("DO $$ BEGIN EXECUTE 'GRANT CONNECT ON DATABASE ' || current_database() || ' TO PUBLIC'; END $$").await;
    assert_fatal(&refused(|config| config.user("limited")).await, "53300", Class::Capacity);
    db.setup("DROP ROLE limited; DROP ROLE stranger").await;
}

#[tokio::test]
async fn a_server_that_does_not_listen_is_a_connection_failure() {
    let error = "host=127.0.0.1 port=1 user=x".parse::<Config>().unwrap().connect(NoTls).await.err().unwrap();
    assert_eq!(classify(&error), Some(Class::Connection), "{error:?}");
}

#[tokio::test]
async fn misuse_of_the_driver_is_fatal() {
    let db = Database::create().await;
    let client = db.client().await;
    for error in [
        client.query_one("SELECT 1 WHERE false", &[]).await.unwrap_err(),
        client.query("SELECT $1::int", &[&"text"]).await.unwrap_err(),
        "nonsense".parse::<Config>().unwrap_err(),
    ] {
        assert_eq!(classify(&error), Some(Class::Fatal), "{error:?}");
    }
}

#[derive(Debug, thiserror::Error)]
enum Own {
    #[error("moving money")]
    Wrapped(#[source] PgError),
    #[error(transparent)]
    Transparent(#[from] Error),
    #[error("not ours")]
    Domain,
}

#[tokio::test]
async fn the_chain_of_sources_is_searched() {
    let db = Database::create().await;
    let client = db.client().await;
    let raise = || failure(&client, "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$");
    assert_eq!(classify(&Own::Wrapped(raise().await)), Some(Class::Serialization));
    assert_eq!(classify(&Own::Transparent(Error::from(raise().await))), Some(Class::Serialization));
    let deep = anyhow::Error::new(Own::Wrapped(raise().await)).context("one").context("two");
    assert_eq!(classify(deep.as_ref()), Some(Class::Serialization));
    assert_eq!(classify(&Error::Pool(PoolError::closed(Own::Domain))), Some(Class::Fatal));
    assert_eq!(classify(&Own::Domain), None);
    assert_eq!(
        classify(&std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
        None,
        "not an error of the database"
    );
}

#[tokio::test]
async fn the_text_has_the_message_of_the_cause_once() {
    let db = Database::create().await;
    let client = db.client().await;
    let error = Error::from(failure(&client, "SELECT 1 / 0").await);
    let text = "the database reported an error: ERROR: division by zero";
    assert_eq!(error.to_string(), text);
    assert_eq!(error.as_db_error().unwrap().code().code(), "22012");
    assert_eq!(error.class(), Class::Fatal);
    assert_eq!(format!("{:#}", anyhow::Error::new(error)), format!("{text}: SQLSTATE 22012"));
    let own = Own::Transparent(Error::from(failure(&client, "SELECT 1 / 0").await));
    assert_eq!(format!("{:#}", anyhow::Error::new(own)), format!("{text}: SQLSTATE 22012"));
}
