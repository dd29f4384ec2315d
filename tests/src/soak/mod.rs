//! A soak: many calls of `#[transactional]` functions under random faults on a real server, and each caller's verdict
//! held against what is in the database.

mod body;
mod call;
mod events;
mod faults;
mod functions;
mod judge;
mod plan;
mod report;
mod sources;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio_postgres::{Client, Config};

pub use self::report::Report;

use self::call::{Call, Log, Verdict, patiently};
use self::events::CALL;
use self::faults::{Faults, VICTIM};
use self::judge::Record;
use self::plan::{HOT_ROWS, Plan};
use self::sources::Sources;
use crate::proxy::Proxy;
use crate::{Server, connect};

/// How long a call may take. Nothing that goes wrong lasts for longer than a second or two.
const FOR_EVER: Duration = Duration::from_secs(90);

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many calls.
    pub calls: i64,
    /// How many of them at the same time.
    pub callers: u16,
    /// What chance depends on.
    pub seed: u64,
    /// No call begins after that.
    pub limit: Duration,
}

/// `at_commit` runs while COMMIT does. The ledger has a row for each attempt (part 0), each nested call, and each change
/// of a hot row.
const TABLES: &str = "
    CREATE TABLE hot (id int PRIMARY KEY, total bigint NOT NULL) WITH (fillfactor = 20);
    CREATE TABLE ledger (
        call bigint, attempt int, part int, hot int, delta bigint NOT NULL DEFAULT 0,
        nap int NOT NULL DEFAULT 0, fails boolean NOT NULL DEFAULT false
    );
    CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_sleep(NEW.nap / 1000.0);
        IF NEW.fails THEN RAISE 'refused'; END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON ledger DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.nap > 0 OR NEW.fails) EXECUTE FUNCTION at_commit()";

/// Runs the calls on a server of its own, which it crashes a few times, and judges them.
///
/// # Errors
/// Where the server does not start.
pub async fn run(options: &Options) -> io::Result<Report> {
    events::subscribe();
    // With synchronous_commit off the server itself would lose what it has acknowledged.
    let server = Server::start_with(&["synchronous_commit=on"])?;
    let config = server.config();
    let observer = connect(&config).await;
    observer.batch_execute(TABLES).await.map_err(io::Error::other)?;
    retry_runtime::install(&observer).await.map_err(io::Error::other)?;
    let rows = format!("INSERT INTO hot SELECT id, 0 FROM generate_series(1, {HOT_ROWS}) AS id");
    observer.batch_execute(&rows).await.map_err(io::Error::other)?;
    let proxy = Proxy::start(&config).await?;
    let mut proxied = proxy.config().clone();
    // What a silent connection has locked is not waited for.
    proxied.application_name(VICTIM).options("-c lock_timeout=250ms");
    let sources = Arc::new(Sources::new(&proxied));

    let faults = Arc::new(Faults::new());
    proxy.haunt(faults.of_messages(options.seed));
    let next = Arc::new(AtomicI64::new(1));
    let callers = (0..options.callers).map(|_| {
        let caller = Caller { options: *options, sources: sources.clone(), faults: faults.clone(), next: next.clone() };
        tokio::spawn(caller.make_calls())
    });
    let callers = async {
        let records = join_all(callers).await;
        faults.end();
        records
    };
    let crashes = options.calls / 10_000 + 1;
    let crashes = (1..=crashes).rev().map(|crash| options.calls * crash / (crashes + 1)).collect();
    let (records, ()) =
        tokio::join!(callers, faults.of_backends(&config, options.seed.wrapping_add(1), &next, crashes));
    let elapsed = faults.now();
    let (mut calls, mut wrong) = (Vec::new(), Vec::new());
    for records in records {
        let (records, seen) = records.map_err(io::Error::other)?;
        calls.extend(records);
        wrong.extend(seen);
    }
    // The last fault may have been a crash.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let judge = reconnect(&config).await;
    wrong.extend(sources.inspect_all().await);
    drop(sources);
    wrong.extend(left_open(&judge).await.map_err(io::Error::other)?);
    wrong.extend(judge::money(&judge).await.map_err(io::Error::other)?);
    let ledger = judge::ledger(&judge).await.map_err(io::Error::other)?;
    Ok(Report::new(options, &calls, &ledger, &faults, wrong, elapsed))
}

/// Connects to a server that may be coming up again.
async fn reconnect(config: &Config) -> Client {
    loop {
        if let Ok((client, connection)) = config.connect(tokio_postgres::NoTls).await {
            tokio::spawn(connection);
            return client;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for what is still being cleaned up, and says what transactions stay open.
async fn left_open(observer: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    let until = Instant::now() + Duration::from_secs(20);
    let open = "SELECT string_agg(state || ' ' || query, '; ') FROM pg_stat_activity
                WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    loop {
        let open: Option<String> = observer.query_one(open, &[]).await?.get(0);
        if open.is_none() || Instant::now() > until {
            return Ok(open.map(|open| format!("transactions stay open: {open}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes one call after the other.
struct Caller {
    options: Options,
    sources: Arc<Sources>,
    faults: Arc<Faults>,
    /// The next call's number.
    next: Arc<AtomicI64>,
}

impl Caller {
    /// The calls, and what was wrong with sessions between them.
    async fn make_calls(self) -> (Vec<Record>, Vec<String>) {
        let (mut records, mut wrong, mut own) = (Vec::new(), Vec::new(), None);
        while self.faults.now() < self.options.limit {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            if id > self.options.calls {
                break;
            }
            records.push(self.call(id, &mut own).await);
            if id % 20 == 0 {
                let seen = self.sources.inspect(usize::try_from(id / 20 % 4).unwrap_or_default()).await;
                wrong.extend(seen.map(|fault| format!("{fault}, after call {id}")));
            }
            if id % 10_000 == 0 {
                eprintln!("{id} calls after {:.0?}", self.faults.now());
            }
        }
        (records, wrong)
    }

    async fn call(&self, id: i64, own: &mut Option<Client>) -> Record {
        let log = Arc::new(Log::default());
        let call = Call { id, plan: Plan::of(self.options.seed, id), log: log.clone() };
        let function = call.plan.function;
        let source = self.sources.of(call.plan.source, own).await;
        let began = self.faults.now();
        let work = CALL.scope((log.clone(), Instant::now()), (function.run)(source, &call));
        let verdict = match tokio::time::timeout(FOR_EVER, patiently(call.plan.patience, work)).await {
            Ok(result) => Verdict::of(result),
            Err(_) => Verdict::Hung,
        };
        let log = std::mem::take(&mut *log.lock());
        Record { id, function, verdict, log, began, ended: self.faults.now() }
    }
}
