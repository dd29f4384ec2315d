//! Faults for tests: makes transactional calls fail, so that tests see their retries.
//!
//! A function whose attempts all commit in tests is not known to survive a retry. With the feature `testing`, a call in
//! [`with_faults`] fails as its [`Plan`] says, and is retried. The variable `RETRY_FAULTS` does the same to all calls of an
//! existing test suite. [`drop_after`] drops a call while it runs. [`assert_retry_safe`] tries all of it.
//! [The guide](crate::guide::testing) shows all of them.
//!
//! The server itself raises each fault but [`Fault::PoolExhausted`]: it rolls the transaction back, or ends the session. So a
//! retry here takes the same way as one in production.
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
mod dropped;
mod environment;
pub(crate) mod fault;
mod plan;
mod report;
mod safe;
pub(crate) mod scope;
mod tables;

pub use self::dropped::drop_after;
pub use self::fault::Fault;
pub use self::plan::Plan;
pub use self::report::{Report, report};
pub use self::safe::assert_retry_safe;
pub use self::scope::{inherit, with_faults, without_faults};
