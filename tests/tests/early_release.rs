//! `early_release`: locks go at COMMIT, and `Ok` is returned once the commit is durable.
//!
//! The servers wait for a synchronous standby that does not exist, so a commit is not durable until a test allows it.
#![allow(missing_docs)]

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::poll;
use retry_runtime::{CommitOutcome, Error, Identity, Transaction, install, transactional};
use retry_tests::calls::dropped_after;
use retry_tests::events::Events;
use retry_tests::pgbouncer::PgBouncer;
use retry_tests::proxy::{Cut, Fault, Proxy};
use retry_tests::scripted::{Scripted, error};
use retry_tests::{Database, Server, connect, pool};
use tokio::time::{sleep, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config};

/// A server whose commits are durable only once [`Fixture::allow`] is called. The superuser's own are not delayed.
struct Fixture {
    server: Server,
    admin: Client,
}

impl Fixture {
    async fn new() -> Self {
        let server = Server::start_with(&["synchronous_commit=on"]).unwrap();
        let admin = connect(&server.config()).await;
        admin.batch_execute("SET synchronous_commit = local").await.unwrap();
        let tables = "CREATE TABLE ledger (id bigint); CREATE TABLE hot (id int PRIMARY KEY, total bigint);
                      INSERT INTO hot VALUES (1, 0); CREATE ROLE app LOGIN; GRANT ALL ON ledger, hot TO app";
        admin.batch_execute(tables).await.unwrap();
        install(&admin).await.unwrap();
        admin.batch_execute("GRANT USAGE ON SCHEMA transactional TO app").await.unwrap();
        admin.batch_execute("GRANT SELECT, INSERT ON transactional.commits TO app").await.unwrap();
        Self { server, admin }
    }

    /// Without a superuser's rights.
    fn config(&self) -> Config {
        let mut config = self.server.config();
        config.user("app");
        config
    }

    async fn forbid(&self) {
        self.set("ALTER SYSTEM SET synchronous_standby_names = 'missing'", "missing").await;
    }

    async fn allow(&self) {
        self.set("ALTER SYSTEM RESET synchronous_standby_names", "").await;
    }

    async fn set(&self, sql: &str, value: &str) {
        self.admin.batch_execute(sql).await.unwrap();
        self.admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        loop {
            let client = connect(&self.server.config()).await;
            let row = client.query_one("SHOW synchronous_standby_names", &[]).await.unwrap();
            if row.get::<_, &str>(0) == value {
                return;
            }
        }
    }

    /// How many sessions wait for the standby.
    async fn waiting(&self) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        self.admin.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn total(&self) -> i64 {
        self.admin.query_one("SELECT total FROM hot", &[]).await.unwrap().get(0)
    }

    async fn times(&self, id: i64) -> i64 {
        self.admin.query_one("SELECT count(*) FROM ledger WHERE id = $1", &[&id]).await.unwrap().get(0)
    }

    /// Polls a call until `sessions` wait for the standby.
    async fn until_it_waits<T>(&self, mut call: std::pin::Pin<&mut (impl Future<Output = T> + ?Sized)>, sessions: i64) {
        let since = Instant::now();
        while self.waiting().await < sessions {
            assert!(since.elapsed() < Duration::from_secs(30), "fewer than {sessions} wait for the standby");
            assert!(poll!(call.as_mut()).is_pending(), "it is not durable yet");
            sleep(Duration::from_millis(1)).await;
        }
        assert!(poll!(call.as_mut()).is_pending(), "it is not durable yet");
    }
}

macro_rules! functions {
    ($($name:ident $(, $option:ident $(= $value:expr)?)*;)*) => {$(
        #[transactional(base_delay = "250us", max_delay = "1ms" $(, $option $(= $value)?)*)]
        async fn $name(tx: &mut Transaction<'_>, id: i64) -> Result<u32, Error> {
            tx.execute("UPDATE hot SET total = total + 1", &[]).await?;
            tx.execute("INSERT INTO ledger VALUES ($1)", &[&id]).await?;
            Ok(tx.attempt())
        }
    )*};
}

functions! {
    late;
    early, early_release;
    queued, early_release, queue_by = ();
    retried, early_release, unknown_commit = "retry";
    resolved, early_release, unknown_commit = "resolve";
    by_token, early_release, unknown_commit = "token";
    in_time, early_release, deadline = "400ms";
    resolved_in_time, early_release, unknown_commit = "resolve", deadline = "800ms";
    by_token_in_time, early_release, unknown_commit = "token", deadline = "800ms";
}

/// `COMMIT` and the flush leave in the flight of the statements.
#[transactional(early_release, unknown_commit = "token", base_delay = "250us", max_delay = "1ms")]
async fn sent_by_token(tx: &mut Transaction<'_>, id: i64) -> Result<u32, Error> {
    tx.send_typed("UPDATE hot SET total = total + 1", &[])?;
    tx.send_typed("INSERT INTO ledger VALUES ($1)", &[(&id, Type::INT8)])?;
    Ok(tx.attempt())
}

#[transactional(early_release)]
async fn outer(tx: &mut Transaction<'_>, id: i64) -> Result<u32, Error> {
    late(&mut *tx, id).await
}

#[tokio::test]
async fn the_locks_go_at_commit_and_ok_comes_once_it_is_durable() {
    let fixture = Fixture::new().await;
    let pool = pool(&fixture.config(), 1);
    fixture.forbid().await;
    let update = "BEGIN; SET LOCAL lock_timeout = '50ms'; UPDATE hot SET total = total + 1; COMMIT";
    {
        let mut call = pin!(late(&pool, 1));
        fixture.until_it_waits(call.as_mut(), 1).await;
        fixture.admin.batch_execute(update).await.expect_err("the row is locked");
        fixture.admin.batch_execute("ROLLBACK").await.unwrap();
        fixture.allow().await;
        call.await.unwrap();
    }
    for nested in [false, true] {
        let before = fixture.total().await;
        fixture.forbid().await;
        let mut early = pin!(early(&pool, 2));
        let mut outer = pin!(outer(&pool, 2));
        let mut call: std::pin::Pin<&mut dyn Future<Output = _>> = if nested { outer.as_mut() } else { early.as_mut() };
        fixture.until_it_waits(call.as_mut(), 1).await;
        fixture.admin.batch_execute(update).await.expect("the row is not locked");
        fixture.allow().await;
        call.await.unwrap();
        assert_eq!(fixture.total().await, before + 2);
    }
}

#[tokio::test]
async fn the_next_call_in_the_queue_begins_at_commit() {
    let fixture = Fixture::new().await;
    let pool = pool(&fixture.config(), 2);
    fixture.forbid().await;
    let (mut first, mut second) = (pin!(queued(&pool, 1)), pin!(queued(&pool, 2)));
    fixture.until_it_waits(first.as_mut(), 1).await;
    fixture.until_it_waits(second.as_mut(), 2).await;
    fixture.allow().await;
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (1, 1));
    assert_eq!(fixture.total().await, 2);
}

#[tokio::test]
async fn a_deadline_before_the_flush_leaves_the_outcome_unknown() {
    let fixture = Fixture::new().await;
    let pool = pool(&fixture.config(), 2);
    in_time(&pool, 0).await.unwrap();
    for id in [1, 2, 3] {
        fixture.forbid().await;
        let result = match id {
            1 => in_time(&pool, id).await,
            2 => resolved_in_time(&pool, id).await,
            _ => by_token_in_time(&pool, id).await,
        };
        let Err(Error::CommitUnknown { identity, .. }) = result else { panic!("{result:?}") };
        assert_eq!(fixture.times(id).await, 1, "it is visible");
        assert_eq!(identity.is_some(), id > 1);
        if let Some(identity) = identity {
            // Another process reads it back.
            let identity: Identity = identity.to_string().parse().unwrap();
            let client = connect(&fixture.config()).await;
            let mut resolve = pin!(identity.resolve(&client));
            assert!(timeout(Duration::from_millis(300), resolve.as_mut()).await.is_err(), "it is not durable yet");
            fixture.allow().await;
            assert_eq!(resolve.await.unwrap(), CommitOutcome::Committed);
        }
        fixture.allow().await;
    }
    assert_eq!(early(&pool, 4).await.unwrap(), 1, "the pool's sessions are in order");
}

/// The flush is refused, because the role loses the right to call its function while the body runs.
#[tokio::test]
async fn a_flush_that_fails_leaves_the_outcome_unknown() {
    async fn lose_the_right(tx: &mut Transaction<'_>, id: i64, admin: &Client) -> Result<(), Error> {
        tx.execute("INSERT INTO ledger VALUES ($1)", &[&id]).await?;
        let sql = "REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC";
        admin.batch_execute(sql).await.unwrap();
        Ok(())
    }
    #[transactional(early_release)]
    async fn loses_the_right(tx: &mut Transaction<'_>, id: i64, admin: &Client) -> Result<(), Error> {
        lose_the_right(tx, id, admin).await
    }
    #[transactional(early_release, queue_by = ())]
    async fn loses_it_queued(tx: &mut Transaction<'_>, id: i64, admin: &Client) -> Result<(), Error> {
        lose_the_right(tx, id, admin).await
    }
    let fixture = Fixture::new().await;
    let pool = pool(&fixture.config(), 1);
    for id in [1, 2] {
        let grant = "GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO PUBLIC";
        fixture.admin.batch_execute(grant).await.unwrap();
        let result = match id {
            1 => loses_the_right(&pool, id, &fixture.admin).await,
            _ => loses_it_queued(&pool, id, &fixture.admin).await,
        };
        assert!(matches!(result, Err(Error::CommitUnknown { source: Some(_), .. })), "{result:?}");
        assert_eq!(fixture.times(id).await, 1);
    }
    assert!(matches!(retried(&pool, 3).await, Err(Error::EarlyReleaseUnsupported(_))));
    assert_eq!(fixture.times(3).await, 0, "the body has not run");
}

#[tokio::test]
async fn what_cannot_flush_is_refused_before_the_body_runs() {
    let server = Scripted::start().await;
    for code in ["0A000", "42704", "42883"] {
        server.once("BEGIN", error(code, "not here"));
        let result = early(&pool(server.config(), 1), 1).await;
        assert!(matches!(result, Err(Error::EarlyReleaseUnsupported(_))), "{result:?}");
    }
    assert!(!server.received().iter().any(|message| message.contains("UPDATE")), "{:?}", server.received());
}

#[tokio::test]
async fn whatever_byte_the_connection_ends_at_nothing_is_lost_or_doubled() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::start(&fixture.config()).await.unwrap();
    let pool = pool(proxy.config(), 2);
    early(&pool, -1).await.unwrap();
    let requests = (0..=180).step_by(6).map(|request| (request, 0));
    let replies = (0..=140).step_by(7).map(|reply| (usize::MAX, reply));
    let mut ends = [0; 2];
    for (id, (request, reply)) in (1..).zip(requests.chain(replies)) {
        let fault = Fault { text: "COMMIT", request, reply, cut: if id % 2 == 0 { Cut::Close } else { Cut::Reset } };
        for (id, by) in (id * 10..).zip(["nothing", "token", "id", "sent", "queue", "retry"]) {
            proxy.arm(fault);
            let result = match by {
                "token" => by_token(&pool, id).await,
                "sent" => sent_by_token(&pool, id).await,
                "queue" => queued(&pool, id).await,
                "retry" => retried(&pool, id).await,
                "id" => resolved(&pool, id).await,
                _ => early(&pool, id).await,
            };
            assert!(!proxy.is_armed(), "the fault happened");
            match result {
                // A body that may be applied twice.
                Ok(_) if by == "retry" => assert!(fixture.times(id).await >= 1, "{fault:?}"),
                Ok(_) => assert_eq!(fixture.times(id).await, 1, "{fault:?} by {by}"),
                Err(Error::CommitUnknown { .. }) if matches!(by, "nothing" | "queue") => {
                    ends[usize::try_from(fixture.times(id).await).unwrap()] += 1;
                }
                Err(error) => panic!("{fault:?} by {by}: {error:?}"),
            }
        }
    }
    assert!(ends.iter().all(|times| *times > 0), "rolled back and committed: {ends:?}");
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_no_transaction_and_says_how_it_ended() {
    let fixture = Fixture::new().await;
    let pool = pool(&fixture.config(), 1);
    let mut client = connect(&fixture.config()).await;
    for polls in 0..16 {
        for pooled in [true, false] {
            let events = Events::capture();
            let id = i64::from(polls) * 2 + i64::from(pooled);
            let done = if pooled {
                dropped_after(early(&pool, id), polls).await
            } else {
                dropped_after(early(&mut client, id), polls).await
            };
            let next = if pooled { early(&pool, -1).await } else { early(&mut client, -1).await };
            assert_eq!(next.unwrap(), 1, "after {polls} polls");
            let times = fixture.times(id).await;
            assert!(times == i64::from(done) || times == 1, "{times} after {polls} polls");
            let dropped = events.of("call dropped in commit");
            for event in &dropped {
                assert_eq!(event["outcome"], if times == 1 { "committed" } else { "rolled back" }, "{events:?}");
            }
            assert!(done || times == 0 || dropped.len() == 1, "{events:?}");
        }
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_before_its_flush_keeps_its_session_until_then() {
    let fixture = Fixture::new().await;
    let pool = pool(&fixture.config(), 1);
    for is_queued in [false, true] {
        let events = Events::capture();
        fixture.forbid().await;
        if is_queued {
            fixture.until_it_waits(pin!(queued(&pool, 1)), 1).await;
        } else {
            fixture.until_it_waits(pin!(early(&pool, 1)), 1).await;
        }
        assert!(timeout(Duration::from_millis(100), pool.get()).await.is_err(), "the session is in use");
        assert_eq!(events.of("call dropped in commit").len(), 0);
        fixture.allow().await;
        assert_eq!(early(&pool, 2).await.unwrap(), 1);
        let dropped = events.of("call dropped in commit");
        assert!(dropped.len() == 1 && dropped[0]["outcome"] == "committed", "{events:?}");
    }
}

#[transactional(early_release)]
async fn ends_itself(tx: &mut Transaction<'_>, sql: &str) -> Result<(), Error> {
    tx.batch_execute("INSERT INTO ledger VALUES (8)").await?;
    Ok(tx.batch_execute(sql).await?)
}

#[tokio::test]
async fn a_failure_at_commit_is_not_hidden_by_the_flush() {
    let fixture = Fixture::new().await;
    let check = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE unique_violation; END';
                 CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON ledger DEFERRABLE INITIALLY DEFERRED
                     FOR EACH ROW WHEN (NEW.id = 7) EXECUTE FUNCTION refuse()";
    fixture.admin.batch_execute(check).await.unwrap();
    let pool = pool(&fixture.config(), 1);
    for _ in 0..2 {
        let error = early(&pool, 7).await.unwrap_err();
        assert!(matches!(&error, Error::Postgres(error) if error.code().is_some()), "{error:?}");
        assert_eq!(fixture.times(7).await, 0);
    }
    let error = ends_itself(&pool, "COMMIT").await.unwrap_err();
    assert!(matches!(error, Error::EndedByBody), "{error:?}");
}

#[transactional(read_only, early_release)]
async fn read(tx: &mut Transaction<'_>) -> Result<i64, Error> {
    Ok(tx.query_one("SELECT total FROM hot", &[]).await?.get(0))
}

#[tokio::test]
async fn a_reader_waits_for_what_it_has_read_to_be_durable() {
    let fixture = Fixture::new().await;
    let pool = pool(&fixture.config(), 2);
    fixture.forbid().await;
    let (mut writer, mut reader) = (pin!(early(&pool, 1)), pin!(read(&pool)));
    fixture.until_it_waits(writer.as_mut(), 1).await;
    fixture.until_it_waits(reader.as_mut(), 2).await;
    fixture.allow().await;
    assert_eq!(reader.await.unwrap(), 1);
    writer.await.unwrap();
    let standby = fixture.server.standby(&[]).unwrap();
    let mut on_standby = standby.config();
    on_standby.user("app");
    for _ in 0..2 {
        assert_eq!(read(&retry_tests::pool(&on_standby, 1)).await.unwrap(), 1, "what a standby shows is durable");
    }
}

#[tokio::test]
async fn it_works_through_a_pooler() {
    let db = Database::create().await;
    db.setup("CREATE TABLE ledger (id bigint); CREATE TABLE hot (id int PRIMARY KEY, total bigint)").await;
    db.setup("INSERT INTO hot VALUES (1, 0)").await;
    let bouncer = PgBouncer::start(db.config(), &["default_pool_size = 3"]).unwrap();
    let pool = pool(bouncer.config(), 8);
    let calls = (0..8).map(|caller| {
        let pool = &pool;
        async move {
            for call in 0..20 {
                queued(pool, caller * 100 + call).await.unwrap();
            }
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(db.value::<i64>("SELECT total FROM hot").await, 160);
    assert_eq!(db.value::<i64>("SELECT count(DISTINCT id) FROM ledger").await, 160);
}
