//! Faults for tests: makes transactional calls fail, so that tests see their retries.
//!
//! A function whose attempts all commit in tests is not known to survive a retry. With the feature `testing`, a call in
//! [`with_faults`] fails as its [`Plan`] says, and is retried. The variable `RETRY_FAULTS` does the same to all calls of an
//! existing test suite. [The guide](crate::guide::testing) shows both.
//!
//! The server itself raises each fault: it rolls the transaction back, or ends the session. So a retry here takes the same
//! way as one in production.
//!
//! ```
//! use retry_runtime::testing::{Fault, Plan, with_faults};
//! use retry_runtime::{Error, Pool, Transaction, transactional};
//!
//! #[transactional]
//! async fn place_order(tx: &mut Transaction<'_>, id: i64) -> Result<u32, Error> {
//!     tx.execute("INSERT INTO orders (id) VALUES ($1)", &[&id]).await?;
//!     Ok(tx.attempt())
//! }
//!
//! async fn an_order_survives_a_deadlock(pool: &impl Pool) {
//!     let attempts = with_faults(Plan::new(Fault::Deadlock), place_order(pool, 1)).await.unwrap();
//!     assert_eq!(attempts, 2);
//! }
//! ```
//!
//! Enable the feature in `[dev-dependencies]` only. In a release build it is a compile error, unless rustc is given
//! `--cfg retry_testing_in_release`.

pub(crate) mod attempt;
mod environment;
pub(crate) mod fault;
mod plan;
mod report;

pub use self::fault::Fault;
pub use self::plan::Plan;
pub use self::report::{Report, report};
use crate::testing::attempt::{Attempt, AttemptFaults};

tokio::task_local! {
    /// The plan around a call. `None`: no faults.
    static PLAN: Option<Plan>;
}

/// Makes every transactional call in `future` fail as `plan` says.
///
/// It replaces `RETRY_FAULTS` and any plan around it. Tasks that `future` spawns do not see the plan: see [`inherit`].
pub fn with_faults<F: Future>(plan: Plan, future: F) -> impl Future<Output = F::Output> {
    PLAN.scope(Some(plan), future)
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
    PLAN.scope(None, future)
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

/// The faults of an attempt that is about to begin.
pub(crate) fn faults_of(attempt: &Attempt<'_>) -> AttemptFaults {
    let planned = match PLAN.try_with(|plan| plan.as_ref().and_then(|plan| plan.fault_of(attempt))) {
        Ok(planned) => planned,
        Err(_) => environment::fault_of(attempt),
    };
    AttemptFaults::new(attempt.function, planned)
}
