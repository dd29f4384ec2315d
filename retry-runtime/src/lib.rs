#![doc = include_str!("../../README.md")]

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
mod answer;
mod backoff;
mod begin;
mod begun;
mod cancel;
mod classify;
mod clean_up;
mod damper;
mod deadline;
mod decide;
mod error;
mod events;
mod handle;
mod hooks;
mod identity;
mod policy;
mod pools;
mod queue;
mod reconnect;
mod resolve;
mod run;
mod settle;
mod source;
mod state;
mod stream;
mod transaction;

/// # What it takes
///
/// An `async fn`, free, inherent, in a trait's implementation, or provided by a trait, that returns a `Result`. Its
/// first parameter after `self` is the transaction, as `&mut Transaction<'_>` or `&Transaction<'_>`; callers pass
/// `impl Into<Source<'_>>` in its place, or nothing where the attribute says `source = …`. All else of the signature
/// stays as it is.
///
/// ```
/// use retry_runtime::{Error, Transaction, transactional};
/// # struct Bank<P> { pool: P }
///
/// impl<P: retry_runtime::Pool> Bank<P> {
///     #[transactional(source = &self.pool, read_only, deadline = "2s")]
///     async fn total(&self, tx: &Transaction<'_>) -> Result<i64, Error> {
///         Ok(tx.query_one("SELECT sum(cents)::bigint FROM accounts", &[]).await?.get(0))
///     }
/// }
///
/// # async fn call(bank: Bank<impl retry_runtime::Pool>) -> Result<(), Error> {
/// let total = bank.total().await?;
/// # Ok(())
/// # }
/// ```
///
/// The options are listed in [the crate's documentation](crate#options).
///
/// # Errors
/// What the body returns, once no further attempt is made. [`Error`], converted into the function's error type, where
/// the transaction could not begin or commit.
///
/// # Cancellation
/// The future may be dropped at any await. Before `COMMIT` is sent, nothing is committed. A call that is dropped while
/// `COMMIT` is on its way may be committed: an event says how it ended. A pooled connection is cleaned up in the
/// background, within two seconds, or closed.
///
/// # Panics
/// Where the body does: the transaction is rolled back while unwinding.
#[cfg(feature = "macros")]
#[doc(inline)]
pub use retry_macros::transactional;

pub use crate::cancel::{CancelStream, WithCancel};
pub use crate::classify::{Class, classify};
pub use crate::error::{Error, Phase};
pub use crate::identity::Identity;
pub use crate::policy::{Begin, Isolation, Jitter, Policy, UnknownCommit};
pub use crate::reconnect::Reconnect;
pub use crate::resolve::{CommitOutcome, resolve};
pub use crate::source::{BoxFuture, Pool, Session, Source};
pub use crate::stream::Watched;
pub use crate::transaction::Transaction;
