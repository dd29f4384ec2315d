//! Promises 1, 2, 5 and 6: random sequences of statements, savepoints, nested calls, failures, hooks and drops, on a real
//! server and in a plain model. Both must agree on each reply, the order of the hooks, the result and the committed rows.
//!
//! `PROPTEST_CASES=100000` runs more sequences of each kind, with a new seed each time. A failure shows the shortest sequence.
#![allow(missing_docs)]

mod model;
mod script;
mod trace;

use std::sync::{Arc, Mutex, PoisonError};

use deadpool_postgres::Pool;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use retry_runtime::testing::drop_after;
use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::script::{End, Kind, Script, Step};
use crate::trace::{Drop, Entry, Trace};

const FAIL: &str = "SELECT 1 / 0";
const CONFLICT: &str = "DO $$BEGIN RAISE serialization_failure; END$$";
const SUCCEED: &str = "SELECT 1";

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the body's own error")]
    Own,
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Transaction(#[from] Error),
}

/// One run of a script.
#[derive(Clone)]
struct Run {
    /// Tells its rows from those of other runs.
    number: i32,
    attempt: u32,
    trace: Trace,
    /// What became of each nested call and savepoint that could be dropped.
    drops: Arc<Mutex<Vec<Drop>>>,
}

macro_rules! call {
    ($($name:ident $(, $option:meta)*;)*) => {$(
        #[transactional(retries = 2, deadlock_retries = 2, base_delay = "1us", max_delay = "1us" $(, $option)*)]
        async fn $name(tx: &mut Transaction<'_>, script: &Script, run: &Run) -> Result<(), Failure> {
            let run = Run { attempt: tx.attempt(), ..run.clone() };
            run.trace.add(Entry::Attempt(run.attempt));
            body(tx, &script.steps, &run).await?;
            if script.ok { Ok(()) } else { Err(Failure::Own) }
        }
    )*};
}

call! {
    call;
    call_pipelined, begin = "pipelined";
}

#[transactional]
async fn nested(tx: &mut Transaction<'_>, steps: &[Step], ok: bool, run: &Run) -> Result<(), Failure> {
    body(tx, steps, run).await?;
    if ok { Ok(()) } else { Err(Failure::Own) }
}

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

fn body<'a>(tx: &'a mut Transaction<'_>, steps: &'a [Step], run: &'a Run) -> BoxFuture<'a, Result<(), Failure>> {
    Box::pin(async move {
        for step in steps {
            run.step(tx, step).await?;
        }
        Ok(())
    })
}

impl Run {
    async fn step(&self, tx: &mut Transaction<'_>, step: &Step) -> Result<(), Failure> {
        let insert = "INSERT INTO written VALUES ($1, $2)";
        let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&self.number, Type::INT4), (&step.id, Type::INT4)];
        let conflict = |until| if self.attempt <= until { CONFLICT } else { SUCCEED };
        match &step.kind {
            Kind::Write => self.replied(step, tx.query_typed(insert, &params).await, false)?,
            Kind::Send => tx.send_typed(insert, &params)?,
            Kind::Fail { returned } => self.replied(step, tx.batch_execute(FAIL).await, *returned)?,
            Kind::SendFailing => tx.send_typed(FAIL, &[])?,
            Kind::Conflict { until, returned } => {
                self.replied(step, tx.batch_execute(conflict(*until)).await, *returned)?;
            }
            Kind::SendConflict { until } => tx.send_typed(conflict(*until), &[])?,
            Kind::OnCommit => tx.on_commit(self.hook(step)),
            Kind::OnRollback => tx.on_rollback(self.hook(step)),
            Kind::SetRollbackOnly => tx.set_rollback_only(),
            Kind::Savepoint { steps, end, dropped_after } => {
                self.savepoint(tx, step, (steps, *end, *dropped_after)).await?;
            }
            Kind::Nested { steps, ok, returned, dropped_after: None } => {
                self.replied(step, nested(tx, steps, *ok, self).await, *returned)?;
            }
            Kind::Nested { steps, ok, returned, dropped_after: Some(polls) } => {
                let since = self.can_be_dropped();
                if let Some(result) = drop_after(*polls, nested(&mut *tx, steps, *ok, self)).await {
                    return self.replied(step, result, *returned);
                }
                self.dropped(tx, step, since).await;
            }
        }
        Ok(())
    }

    async fn savepoint(
        &self,
        tx: &mut Transaction<'_>,
        step: &Step,
        (steps, end, dropped_after): (&[Step], End, Option<u32>),
    ) -> Result<(), Failure> {
        let name = format!("own_{}", step.id);
        if let Some(polls) = dropped_after {
            let since = self.can_be_dropped();
            if drop_after(polls, tx.savepoint(&name)).await.is_none() {
                self.dropped(tx, step, since).await;
                return Ok(());
            }
        }
        let mut savepoint = match tx.savepoint(name).await {
            Ok(savepoint) => savepoint,
            Err(error) => return self.replied(step, Err::<(), _>(error), false),
        };
        body(&mut savepoint, steps, self).await?;
        match end {
            End::Commit => self.replied(step, savepoint.commit().await, false),
            End::RollBack => self.replied(step, savepoint.rollback().await, false),
            End::Drop => Ok(()),
        }
    }

    /// Something that may be dropped begins. Returns where its part of the trace and of the drops begins.
    fn can_be_dropped(&self) -> (usize, usize) {
        let index = self.with_drops(|drops| {
            drops.push(Drop::Ended);
            drops.len() - 1
        });
        (self.trace.len(), index)
    }

    async fn dropped(&self, tx: &Transaction<'_>, step: &Step, (trace, index): (usize, usize)) {
        let drop = if tx.batch_execute(SUCCEED).await.is_ok() { Drop::Undone } else { Drop::Aborted };
        self.trace.dropped(trace, Entry::Dropped(step.id, drop));
        self.with_drops(|drops| {
            drops.truncate(index);
            drops.push(drop);
        });
    }

    fn replied<T, E>(&self, step: &Step, result: Result<T, E>, returned: bool) -> Result<(), Failure>
    where
        Failure: From<E>,
    {
        self.trace.add(Entry::Replied(step.id, result.is_ok()));
        match result {
            Err(error) if returned => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn hook(&self, step: &Step) -> impl Future<Output = ()> + Send + 'static {
        let (trace, id) = (self.trace.clone(), step.id);
        async move { trace.add(Entry::Hook(id)) }
    }

    fn with_drops<T>(&self, with: impl FnOnce(&mut Vec<Drop>) -> T) -> T {
        with(&mut self.drops.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How the outermost call begins.
#[derive(Clone, Copy)]
enum How {
    Pool,
    Pipelined,
    Client,
}

struct Fixture {
    how: How,
    pool: Pool,
    client: Client,
    observer: Client,
    _db: Database,
}

impl Fixture {
    async fn new(how: How) -> Self {
        let db = Database::create().await;
        db.setup("CREATE TABLE written (run int, id int)").await;
        Self { how, pool: db.pool(1), client: db.client().await, observer: db.client().await, _db: db }
    }

    async fn check(&mut self, script: &Script, number: i32) -> Result<(), TestCaseError> {
        let run = Run { number, attempt: 0, trace: Trace::default(), drops: Arc::default() };
        let (pool, client) = (&self.pool, &mut self.client);
        let call = async {
            match self.how {
                How::Pool => call(pool, script, &run).await,
                How::Pipelined => call_pipelined(pool, script, &run).await,
                How::Client => call(client, script, &run).await,
            }
        };
        let result = match script.dropped_after {
            Some(polls) => drop_after(polls, call).await,
            None => Some(call.await),
        };
        if result.is_none() {
            // The pool's one connection is free when the clean-up has ended. The client's comes before this statement.
            drop(self.pool.get().await.expect("a connection"));
            self.client.batch_execute("").await.expect("a connection");
        }
        let rows = "SELECT id FROM written WHERE run = $1 ORDER BY id";
        let rows = self.observer.query_typed(rows, &[(&number, Type::INT4)]).await.expect("rows");
        let rows: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
        let trace = run.trace.take();
        // If the call was dropped, it did not get to the later ones.
        let mut drops = run.with_drops(std::mem::take).into_iter().chain(std::iter::repeat(Drop::Ended));
        let attempts = trace.iter().filter(|entry| matches!(entry, Entry::Attempt(_))).count();
        let expected = model::run(script, &mut drops, u32::try_from(attempts).expect("a small number"));
        let Some(result) = result else {
            let committed = trace.len() == expected.trace.len() && trace == expected.trace;
            prop_assert!(expected.trace.starts_with(&trace), "{trace:?} of {:?}", expected.trace);
            prop_assert!(rows == expected.rows || rows.is_empty(), "{rows:?} of {:?}", expected.rows);
            let hooks_ran = committed && matches!(trace.last(), Some(Entry::Hook(_)));
            prop_assert!(!hooks_ran || rows == expected.rows, "its hooks have run");
            return Ok(());
        };
        prop_assert_eq!(&trace, &expected.trace, "{:?}", result);
        prop_assert_eq!(result.is_ok(), expected.ok, "{:?}", result);
        prop_assert_eq!(rows, expected.rows, "{:?}", result);
        Ok(())
    }
}

/// Checks random sequences. `cases`: how many, if `PROPTEST_CASES` does not say so.
fn check(how: How, cases: u32) {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config = ProptestConfig { cases, rng_seed: RngSeed::Fixed(cases.into()), ..config };
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let fixture = Mutex::new((runtime.block_on(Fixture::new(how)), 0));
    let result = TestRunner::new(config).run(&script::scripts(), |script| {
        let (fixture, number) = &mut *fixture.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        runtime.block_on(fixture.check(&script, *number))
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn sequences_on_a_pool_do_what_the_model_says() {
    check(How::Pool, 5_000);
}

#[test]
fn sequences_after_a_pipelined_begin_do_what_the_model_says() {
    check(How::Pipelined, 3_000);
}

#[test]
fn sequences_on_a_client_do_what_the_model_says() {
    check(How::Client, 2_000);
}
