//! The plan around a call.

use std::sync::Arc;

use crate::testing::attempt::{Attempt, AttemptFaults, Observed};
use crate::testing::environment;
use crate::testing::plan::Plan;

tokio::task_local! {
    /// What is planned for a call.
    static PLAN: Around;
}

/// The plan around a call.
#[derive(Clone)]
struct Around {
    /// `None`: no faults.
    plan: Option<Plan>,
    observed: Option<Arc<Observed>>,
}

/// Makes every transactional call in `future` fail as `plan` says.
///
/// It replaces `RETRY_FAULTS` and any plan around it. Tasks that `future` spawns do not see the plan: see [`inherit`].
pub fn with_faults<F: Future>(plan: Plan, future: F) -> impl Future<Output = F::Output> {
    PLAN.scope(Around { plan: Some(plan), observed: None }, future)
}

/// Keeps faults away from the calls in `future`, also those of `RETRY_FAULTS`.
///
/// For a test that counts attempts:
///
/// ```
/// # use retry_runtime::testing::without_faults;
/// # async fn attempts() -> u32 { 1 }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert_eq!(without_faults(attempts()).await, 1);
/// # }
/// ```
pub fn without_faults<F: Future>(future: F) -> impl Future<Output = F::Output> {
    PLAN.scope(Around { plan: None, observed: None }, future)
}

/// Gives a task that is about to be spawned the plan of the task that spawns it.
///
/// ```
/// # use retry_runtime::testing::inherit;
/// # async fn work() {}
/// # async fn spawn() {
/// tokio::spawn(inherit(work()));
/// # }
/// ```
pub fn inherit<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let plan = PLAN.try_with(Clone::clone);
    async {
        match plan {
            Ok(plan) => PLAN.scope(plan, future).await,
            // There is none to inherit.
            Err(_) => future.await,
        }
    }
}

/// Like [`with_faults`] or [`without_faults`]. Notes what happens in the calls.
pub(super) fn observe<F: Future>(
    plan: Option<Plan>,
    observed: Arc<Observed>,
    future: F,
) -> impl Future<Output = F::Output> {
    PLAN.scope(Around { plan, observed: Some(observed) }, future)
}

/// The faults of an attempt that is about to begin.
pub(crate) fn faults_of(attempt: &Attempt<'_>) -> AttemptFaults {
    let around = |around: &Around| {
        let planned = around.plan.as_ref().and_then(|plan| plan.fault_of(attempt));
        AttemptFaults::new(attempt.function, planned, around.observed.clone())
    };
    let from_environment = || AttemptFaults::new(attempt.function, environment::fault_of(attempt), None);
    PLAN.try_with(around).unwrap_or_else(|_| from_environment())
}
