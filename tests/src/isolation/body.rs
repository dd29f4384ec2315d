//! The body of the functions, and a log of what it did.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use retry_runtime::{Transaction, transactional};
use tokio_postgres::types::Type;

use super::functions::Style;
use super::plan::{Plan, Step};
use crate::soak::call::{Failed, with_patience};

const APPEND: &str = "UPDATE lists SET list = array_append(list, $2) WHERE key = $1";
const READ: &str = "SELECT list FROM lists WHERE key = $1";

/// A call that is running.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) plan: Plan,
    /// The next value to append. Each is appended once in the whole history.
    pub(crate) next_value: Arc<AtomicI32>,
    pub(crate) log: Arc<Log>,
}

/// A micro-operation that was done.
#[derive(Clone, Debug)]
pub(crate) enum Done {
    Append { key: i32, value: i32 },
    Read { key: i32, list: Vec<i32> },
}

/// What has happened to a call so far.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Logged>);

#[derive(Debug, Default)]
pub(crate) struct Logged {
    pub(crate) attempts: BTreeMap<u32, Attempt>,
    /// The attempts of which a hook has said whether they are committed.
    pub(crate) hooks: Vec<(u32, bool)>,
    /// How many errors the body has ignored.
    pub(crate) swallowed: usize,
}

/// One attempt.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    /// All keys and values that it has appended, those in undone savepoints too.
    pub(crate) appended: Vec<(i32, i32)>,
    /// What it does if it commits. Known once the body has returned `Ok`.
    pub(crate) done: Option<Vec<Done>>,
}

impl Log {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Logged> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, attempt: u32, change: impl FnOnce(&mut Attempt)) {
        change(self.lock().attempts.entry(attempt).or_default());
    }
}

/// The body of every function. It returns the number of the attempt.
pub(crate) async fn run(tx: &mut Transaction<'_>, call: &Call) -> Result<u32, Failed> {
    let attempt = tx.attempt();
    call.log.change(attempt, |_| {});
    if call.plan.hooks {
        let (committed, rolled_back) = (call.log.clone(), call.log.clone());
        tx.on_commit(async move { committed.lock().hooks.push((attempt, true)) });
        tx.on_rollback(async move { rolled_back.lock().hooks.push((attempt, false)) });
    }
    let done = in_style(tx, call).await?;
    if call.plan.declines {
        return Err(Failed::Declined);
    }
    if call.plan.function.style == Style::Repeat && attempt == 1 {
        return Err(Failed::Text("stale".to_owned()));
    }
    call.log.change(attempt, |attempt| attempt.done = Some(done));
    Ok(attempt)
}

async fn in_style(tx: &mut Transaction<'_>, call: &Call) -> Result<Vec<Done>, Failed> {
    let plan = &call.plan;
    let mut done = Vec::new();
    match plan.function.style {
        Style::Plain | Style::Swallow | Style::Send | Style::Repeat => steps(tx, call, &plan.steps, &mut done).await?,
        Style::Nested => {
            let (own, inner) = plan.steps.split_at(plan.steps.len() / 2);
            steps(tx, call, own, &mut done).await?;
            done.extend(nested(&mut *tx, call, inner, false).await?);
        }
        Style::NestedDropped => {
            if let Some(inner) = with_patience(plan.inner_patience, nested(&mut *tx, call, &plan.steps, false)).await {
                done.extend(inner?);
            }
            steps(tx, call, &plan.steps[..1], &mut done).await?;
        }
        Style::NestedUndone => {
            // A conflict in it ends the attempt, although the body ignores it.
            let _ = nested(&mut *tx, call, &plan.steps, true).await;
            steps(tx, call, &plan.steps, &mut done).await?;
        }
        Style::Savepoint => {
            let undone = tx.transaction().await?;
            steps(&undone, call, &plan.steps, &mut Vec::new()).await?;
            drop(undone);
            let kept = tx.savepoint("kept").await?;
            steps(&kept, call, &plan.steps, &mut done).await?;
            kept.commit().await?;
        }
    }
    Ok(done)
}

#[transactional]
async fn nested(tx: &mut Transaction<'_>, call: &Call, list: &[Step], fails: bool) -> Result<Vec<Done>, Failed> {
    let mut done = Vec::new();
    steps(tx, call, list, &mut done).await?;
    if fails { Err(Failed::Declined) } else { Ok(done) }
}

async fn steps(tx: &Transaction<'_>, call: &Call, steps: &[Step], done: &mut Vec<Done>) -> Result<(), Failed> {
    for step in steps {
        let result = match *step {
            Step::Append(key) => {
                let value = call.next_value.fetch_add(1, Ordering::Relaxed);
                call.log.change(tx.attempt(), |attempt| attempt.appended.push((key, value)));
                // Before the reply: a body that ignores an error expects the append to be there.
                done.push(Done::Append { key, value });
                append(tx, call.plan.function.style, key, value).await
            }
            Step::Read(key) => read(tx, key).await.map(|list| done.push(Done::Read { key, list })),
        };
        match result {
            Err(_) if call.plan.function.style == Style::Swallow => call.log.lock().swallowed += 1,
            result => result?,
        }
    }
    Ok(())
}

async fn append(tx: &Transaction<'_>, style: Style, key: i32, value: i32) -> Result<(), tokio_postgres::Error> {
    if style == Style::Send {
        return tx.send_typed(APPEND, &[(&key, Type::INT4), (&value, Type::INT4)]);
    }
    let append = tx.prepare_cached(APPEND).await?;
    tx.execute(&append, &[&key, &value]).await?;
    Ok(())
}

async fn read(tx: &Transaction<'_>, key: i32) -> Result<Vec<i32>, tokio_postgres::Error> {
    let read = tx.prepare_cached(READ).await?;
    Ok(tx.query_one(&read, &[&key]).await?.get(0))
}
