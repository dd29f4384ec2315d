#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc = include_str!("guide/links.md")]
#![doc = include_str!("../README.md")]

#[doc(hidden)]
pub mod __private;
mod backoff;
mod call;
mod classify;
mod commit;
mod driver;
mod error;
mod events;
pub mod guide;
mod policy;
mod pool;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod transaction;

#[cfg(all(feature = "testing", not(debug_assertions), not(retry_testing_in_release)))]
compile_error!(
    "the feature `testing` of retry-runtime makes transactions fail, and this is a build without debug assertions: enable \
     it in [dev-dependencies] only, or pass `--cfg retry_testing_in_release` to rustc if the release build is for tests"
);

/// Runs an async function as a retried PostgreSQL transaction.
///
/// # Functions it takes
///
/// An `async fn` that returns a `Result`: a free function, a method, an associated function, or a method in a trait with a
/// body. The first parameter after `self` is the transaction, `&mut Transaction<'_>` or `&Transaction<'_>`. Callers pass
/// `impl Into<Source<'_>>` instead: a pool, a client or an open transaction. With `source = …` in the attribute, they pass
/// nothing. The rest of the signature is unchanged.
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
/// [The guide](crate::guide::options) explains all options.
///
/// # Compile errors
///
/// Each mistake is a compile error at the offending token. All mistakes of a function are reported together.
///
/// | mistake | why it is an error |
/// |---|---|
/// | the function is not `async`, or returns no `Result` | an attempt is awaited, and its result decides between `COMMIT` and `ROLLBACK` |
/// | the first parameter is not the transaction, or takes it by value | callers pass a source in its place, and every attempt has its own transaction |
/// | `&mut self`, a `&mut` or `ref mut` parameter, or a `&mut` inside a type such as `Option<&mut T>` | changes made through it would survive a rolled-back attempt; `allow_mut` accepts them |
/// | a test, `main`, or an `extern` function | their callers pass no source |
/// | a function that `#[async_trait]` has rewritten | its body is already boxed; put the attribute on a function that it calls |
/// | an option that is unknown, given twice, or has a malformed value | the message names the nearest option, or the expected value |
/// | `isolation = "read uncommitted"` | PostgreSQL runs it as read committed |
/// | `deferrable` without `read_only` and `isolation = "serializable"` | it would have no effect |
/// | `base_delay` longer than `max_delay` or `deadline` | the first delay cannot be longer than the last, or than the whole call |
/// | `retry_on` with `retries = 0`, `retry_if` with `deadlock_retries = 0`, `escalate_after` greater than `deadlock_retries` | the option would never take effect; defaults and constants are checked too |
/// | `retry_on` with 40001, 40P01, 55P03, 55006 or 25P02 | the first four are always retried, and the last only means that an earlier statement failed |
/// | `within` without `source`, or with the function's own name | the twin differs from the function by its name and its source |
/// | a literal as a key of `queue_by` | all calls would have the same key; write `queue_by = ()` if that is intended |
/// | `queue` without `queue_by`, or `queue = "server"` with `read_only` | there is no queue; a read-only transaction may not lock tables |
/// | `unknown_commit = "resolve"` or `"token"` with `read_only` | there is no outcome to look up |
/// | an error type without `From<`[`Error`]`>` | the runtime returns its own errors through it |
/// | a key of `queue_by` that does not implement `Hash` | calls are queued by the hash of their keys |
/// | `commit()` or `rollback()` in the body | the retry loop ends the transaction: `Ok` commits it, and `Err` rolls it back |
/// | a result that borrows from the transaction | the transaction ends before the function returns |
/// | an argument other than `&pool`, `&mut client` or `&mut *tx` for the source | no transaction can begin on it |
///
/// The attribute sees only the signature. It cannot detect a `&mut` behind a type alias or in a struct, or interior
/// mutability such as a `Mutex`. Changes made through them survive a rolled-back attempt.
///
/// # Other attributes
///
/// They stay on the function. Put an attribute that rewrites the body, such as `#[tracing::instrument]`, below
/// `#[transactional]`, with `skip_all` or `skip(source)`. Its span then covers the whole call with its attempts and delays.
/// Above `#[transactional]`, it would rewrite the body of each attempt, and move the parameters into it.
///
/// # Recursive functions
///
/// As in any `async fn`, a recursive call must be boxed. Box it in a function that names the type of the box. With a plain
/// `Box::pin(descendants(…))`, rustc cannot tell whether the future is `Send`, and refuses to spawn it (E0275, "overflow").
///
/// ```
/// use retry_runtime::{BoxFuture, Error, Transaction, transactional};
///
/// #[transactional]
/// async fn descendants(tx: &mut Transaction<'_>, id: i64) -> Result<usize, Error> {
///     let children = tx.query("SELECT id FROM folders WHERE parent = $1", &[&id]).await?;
///     let mut count = children.len();
///     for child in children {
///         count += descendants_of_child(tx, child.get(0)).await?;
///     }
///     Ok(count)
/// }
///
/// fn descendants_of_child<'a>(tx: &'a mut Transaction<'_>, id: i64) -> BoxFuture<'a, Result<usize, Error>> {
///     Box::pin(descendants(tx, id))
/// }
///
/// # fn call(pool: std::sync::Arc<impl retry_runtime::Pool + 'static>) {
/// tokio::spawn(async move { descendants(&*pool, 1).await });
/// # }
/// ```
///
/// Each recursive call is a savepoint. To avoid that, put the recursion into a plain `async fn` that takes
/// `&mut Transaction<'_>`, and call it from one transactional function.
///
/// # Generated documentation
///
/// A `pub` function with a doc comment gets a section at its end: its isolation level, what is retried and how often, and
/// how long a call can sleep. For `retries = 5, deadlock_retries = 5, isolation = "serializable"` it is:
///
/// > Runs as a `SERIALIZABLE` transaction, and retries if it fails:
/// >
/// > - up to 5 times after a conflict with a concurrent transaction (deadlock, serialization failure, lock not available),
/// >   sleeping at most 79.6 ms in total;
/// > - up to 5 times after a transient failure (connection closed before `COMMIT`, failover, no free connection), sleeping
/// >   at most 1.6 s in total.
/// >
/// > Inside an open transaction it runs as a savepoint, and only the outermost call retries.
///
/// `undocumented` omits the section.
///
/// # Errors
/// The error that the body returned in the last attempt. If the transaction could not begin or commit: an [`Error`],
/// converted into the function's error type.
///
/// # Cancel safety
/// The future may be dropped at any await. Before `COMMIT` is sent, nothing is committed. If a call is dropped while
/// `COMMIT` is on its way, the transaction may be committed: an event reports the outcome. A pooled connection is cleaned up
/// in the background within half a second, or closed.
///
/// # Panics
/// If the body panics. The transaction is rolled back during unwinding.
#[cfg(feature = "macros")]
#[doc(inline)]
pub use retry_macros::transactional;

// Named in errors of the compiler: reachable, so that their paths are short.
#[doc(hidden)]
pub use crate::call::source::MadeFrom;
pub use crate::call::source::Source;
pub use crate::classify::Class;
pub use crate::commit::{INSTALL_QUEUES_SQL, INSTALL_SQL, install, install_queues};
pub use crate::driver::classify;
pub use crate::error::{
    Cause, CommitOutcome, Error, FailedAttempt, History, Identity, ParseIdentityError, Phase, PoolError,
};
#[cfg(feature = "metrics")]
pub use crate::events::metrics::describe_metrics;
pub use crate::events::stats::{FunctionStats, Stats, stats};
pub use crate::policy::Isolation;
pub use crate::pool::{
    BoxFuture, CancelStream, Pool, Protection, Reconnect, Session, WithBreaker, WithBudget, WithCancel,
};
pub use crate::transaction::deadline::{WithDeadline, with_deadline};
#[doc(hidden)]
pub use crate::transaction::forbidden::EndedByBody;
pub use crate::transaction::generic_client::GenericClient;
pub use crate::transaction::savepoint::Savepoint;
pub use crate::transaction::{Transaction, Watched};
