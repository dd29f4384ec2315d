//! The body of the functions that the soak test calls.

use std::time::Duration;

use futures_util::TryStreamExt;
use retry_runtime::{BoxFuture, Transaction, transactional};

use super::call::{Call, Failed, number, with_patience};
use super::plan::{Ending, Nested, Step};
use crate::NO_PARAMS;

const NOTE: &str = "INSERT INTO ledger (call, attempt, part, hot, delta) VALUES ($1, $2, $3, $4, $5)";
const NOTE_FIRST: &str = "INSERT INTO ledger (call, attempt, part, nap, fails) VALUES ($1, $2, 0, $3, $4)";

/// The body of every function. It records the attempt in the ledger, and returns its number.
pub(crate) async fn run(tx: &mut Transaction<'_>, call: &Call) -> Result<u32, Failed> {
    let attempt = number(tx.attempt());
    match try_to_run(tx, call, attempt).await {
        Err(error) if call.plan.as_text => return Err(Failed::Text(error.to_string())),
        Err(error) => return Err(error),
        Ok(parts) => call.log.change(attempt, |attempt| attempt.parts = Some(parts)),
    }
    if call.plan.ending == Ending::Overrun {
        if let Some(deadline) = call.plan.function.deadline {
            // The call began before this body, so this is past its deadline.
            std::thread::sleep(deadline + Duration::from_millis(2));
            call.log.change(attempt, |attempt| attempt.overran = true);
        }
    }
    Ok(tx.attempt())
}

async fn try_to_run(tx: &mut Transaction<'_>, call: &Call, attempt: i32) -> Result<Vec<i32>, Failed> {
    let plan = &call.plan;
    if plan.function.pipelined {
        tx.query_one("SELECT count(*) FROM hot", &[]).await?;
    }
    watch(tx, call, attempt, 0);
    if plan.lock_timeout {
        tx.batch_execute("SET LOCAL lock_timeout = '3ms'").await?;
    }
    tx.execute(NOTE_FIRST, &[&call.id, &attempt, &plan.commit_nap_ms, &plan.commit_fails]).await?;
    let mut parts = vec![0];
    steps(tx, call, &plan.steps, &mut parts).await?;
    end(tx, plan.ending).await?;
    Ok(parts)
}

/// Records when the hooks of a part run.
fn watch(tx: &Transaction<'_>, call: &Call, attempt: i32, part: i32) {
    call.log.change(attempt, |attempt| attempt.hooked.push(part));
    let (committed, rolled_back) = (call.log.clone(), call.log.clone());
    tx.on_commit(async move { committed.lock().hooks.push((true, attempt, part)) });
    tx.on_rollback(async move { rolled_back.lock().hooks.push((false, attempt, part)) });
}

/// Runs `steps`, and adds the parts that they leave in the ledger to `parts`.
async fn steps(tx: &mut Transaction<'_>, call: &Call, steps: &[Step], parts: &mut Vec<i32>) -> Result<(), Failed> {
    let attempt = number(tx.attempt());
    for step in steps {
        match step {
            Step::Move { row, delta } => {
                let part = call.log.part(attempt);
                let update = tx.prepare_cached("UPDATE hot SET total = total + $2 WHERE id = $1").await?;
                tx.execute(&update, &[row, delta]).await?;
                tx.execute(NOTE, &[&call.id, &attempt, &part, row, delta]).await?;
                parts.push(part);
            }
            Step::ReadAll => {
                tx.query_one("SELECT sum(total)::bigint FROM hot", &[]).await?;
            }
            Step::Pause(time) => tokio::time::sleep(*time).await,
            Step::Swallow => {
                let _ = tx.batch_execute("SELECT 1 / 0").await;
            }
            Step::SwallowUnwatched => {
                let _ = (**tx).batch_execute("SELECT 1 / 0").await;
            }
            Step::LeaveRows { fails } => {
                let last: i32 = if *fails { 300 } else { 0 };
                let rows = tx.query_raw("SELECT 1 / (n - $1) FROM generate_series(1, 500) AS n", [last]).await?;
                let mut rows = Box::pin(rows);
                rows.try_next().await?;
            }
            Step::DropStatement => {
                let statement = tx.query_raw("SELECT pg_sleep(0.003)", NO_PARAMS);
                let _ = tokio::time::timeout(Duration::from_millis(1), statement).await;
            }
            Step::Nested(plan) => {
                if let Some(Ok(inner)) = with_patience(plan.patience, nested_call(tx, call, plan)).await {
                    parts.extend(inner);
                }
            }
        }
    }
    Ok(())
}

async fn end(tx: &Transaction<'_>, ending: Ending) -> Result<(), Failed> {
    match ending {
        Ending::Return | Ending::Overrun => {}
        Ending::Decline => return Err(Failed::Declined),
        Ending::Fail => tx.batch_execute("SELECT 1 / 0").await?,
        Ending::Hang => std::future::pending().await,
    }
    Ok(())
}

// Boxed, because nested calls contain nested calls.
fn nested_call<'a>(
    tx: &'a mut Transaction<'_>,
    call: &'a Call,
    plan: &'a Nested,
) -> BoxFuture<'a, Result<Vec<i32>, Failed>> {
    Box::pin(nested(tx, call, plan))
}

#[transactional]
async fn nested(tx: &mut Transaction<'_>, call: &Call, plan: &Nested) -> Result<Vec<i32>, Failed> {
    let attempt = number(tx.attempt());
    let part = call.log.part(attempt);
    watch(tx, call, attempt, part);
    tx.execute(NOTE, &[&call.id, &attempt, &part, &None::<i32>, &0_i64]).await?;
    let mut parts = vec![part];
    steps(tx, call, &plan.steps, &mut parts).await?;
    end(tx, plan.ending).await?;
    Ok(parts)
}
