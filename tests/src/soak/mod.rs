//! Soak test: many calls of `#[transactional]` functions under random faults on a real server. The result of each call is
//! compared with what is in the database.

mod body;
pub(crate) mod call;
mod check;
mod events;
pub(crate) mod faults;
mod functions;
pub(crate) mod plan;
pub(crate) mod report;
mod sources;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio_postgres::Client;

pub use self::report::Report;

use self::call::{Call, Log, Outcome, with_patience};
use self::check::Record;
use self::events::CALL;
use self::faults::{Faults, VICTIM};
use self::plan::{HOT_ROWS, Plan};
use self::sources::Sources;
use crate::proxy::Proxy;
use crate::{Server, connect, reconnect};

/// A call that takes longer hangs: no fault lasts longer than a second or two.
pub(crate) const HANG_TIMEOUT: Duration = Duration::from_secs(90);

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Number of calls.
    pub calls: i64,
    /// Number of concurrent callers.
    pub callers: u16,
    /// Seed of the random choices.
    pub seed: u64,
    /// After this time no further call begins.
    pub limit: Duration,
}

/// The ledger has a row for each attempt (part 0), each nested call, and each change of a hot row. The trigger `at_commit`
/// runs during `COMMIT`.
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

/// Makes the calls on a throwaway server, which it crashes a few times, and then checks their results.
///
/// # Errors
/// If the server does not start, or the database cannot be prepared or read.
pub async fn run(options: &Options) -> io::Result<Report> {
    events::subscribe();
    // With synchronous_commit off, a crash would lose acknowledged commits.
    let server = Server::start_with(&["synchronous_commit=on"])?;
    let config = server.config();
    let observer = connect(&config).await;
    observer.batch_execute(TABLES).await.map_err(io::Error::other)?;
    retry_runtime::install(&observer).await.map_err(io::Error::other)?;
    let rows = format!("INSERT INTO hot SELECT id, 0 FROM generate_series(1, {HOT_ROWS}) AS id");
    observer.batch_execute(&rows).await.map_err(io::Error::other)?;
    let proxy = Proxy::start(&config).await?;
    let mut proxied = proxy.config().clone();
    // Do not wait for rows that a silent connection has locked.
    proxied.application_name(VICTIM).options("-c lock_timeout=250ms");
    let sources = Arc::new(Sources::new(&proxied));

    let faults = Arc::new(Faults::new());
    proxy.inject(faults.of_messages(options.seed));
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
        let (records, faulty_sessions) = records.map_err(io::Error::other)?;
        calls.extend(records);
        wrong.extend(faulty_sessions);
    }
    // The last fault may have been a crash.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let observer = reconnect(&config).await;
    wrong.extend(sources.inspect_all().await);
    drop(sources);
    wrong.extend(left_open(&observer).await.map_err(io::Error::other)?);
    wrong.extend(check::balances(&observer).await.map_err(io::Error::other)?);
    let ledger = check::ledger(&observer).await.map_err(io::Error::other)?;
    Ok(Report::new(options, &calls, &ledger, &faults, wrong, elapsed))
}

/// Waits for clean-ups that are still running, and reports transactions that stay open.
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

/// Makes one call after another.
struct Caller {
    options: Options,
    sources: Arc<Sources>,
    faults: Arc<Faults>,
    /// The number of the next call.
    next: Arc<AtomicI64>,
}

impl Caller {
    /// The calls, and the faults of sessions found between them.
    async fn make_calls(self) -> (Vec<Record>, Vec<String>) {
        let (mut records, mut wrong, mut own) = (Vec::new(), Vec::new(), None);
        while self.faults.now() < self.options.limit {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            if id > self.options.calls {
                break;
            }
            records.push(self.call(id, &mut own).await);
            if id % 20 == 0 {
                let fault = self.sources.inspect(usize::try_from(id / 20 % 4).unwrap_or_default()).await;
                wrong.extend(fault.map(|fault| format!("{fault}, after call {id}")));
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
        let outcome = match tokio::time::timeout(HANG_TIMEOUT, with_patience(call.plan.patience, work)).await {
            Ok(result) => Outcome::of(result),
            Err(_) => Outcome::Hung,
        };
        let log = std::mem::take(&mut *log.lock());
        Record { id, function, outcome, log, began, ended: self.faults.now() }
    }
}
