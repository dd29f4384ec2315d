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
mod transaction;

/// Runs an async function as a retried PostgreSQL transaction.
///
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
/// [The guide](crate::guide::options) says what the options mean.
///
/// # What it refuses
///
/// Each while compiling, at the token at fault, and all that a function has wrong in one run:
///
/// | mistake | why |
/// |---|---|
/// | a function that is not `async`, or returns no `Result` | an attempt is awaited, and its outcome decides between `COMMIT` and `ROLLBACK` |
/// | no transaction as the first parameter, or one by value | callers pass a source in its place, and each attempt has one of its own |
/// | `&mut` and `ref mut` parameters, also as `[&mut T; 2]`, `Option<&mut T>` and the like, `&mut self` | what a rolled-back attempt wrote there would stay; `allow_mut` accepts it |
/// | a test, `main`, an `extern` function | nobody calls them with a source |
/// | a function that `#[async_trait]` has rewritten | its body is in a box already: put the attribute on a function that it calls |
/// | an option unknown, given twice, or with a malformed value | the message names the nearest, or what is expected |
/// | `isolation = "read uncommitted"` | PostgreSQL runs that as read committed |
/// | `deferrable` without `read_only` and `isolation = "serializable"` | it would have no effect |
/// | `base_delay` longer than `max_delay` or `deadline` | the one is the first delay, the others are to be the last |
/// | `retry_on` with `retries = 0`, `retry_if` with `deadlock_retries = 0`, `escalate_after` beyond `deadlock_retries`, by default or by a constant too | it would never come to that |
/// | `retry_on` with 40001, 40P01, 55P03, 55006 or 25P02 | the first four are retried anyway, the last one only says that something failed before |
/// | a literal as a key of `queue_by` | it is the same for all calls; `queue_by = ()` says that |
/// | `unknown_commit = "resolve"` or `"token"` with `read_only` | there is no outcome to look up |
/// | an error that is not made from [`Error`], a key of `queue_by` that cannot be hashed | the runtime has to return its errors, and to tell keys apart |
/// | `commit()`, `rollback()`, `transaction()` or `savepoint()` in the body | the retry loop ends the transaction, and a savepoint is a nested call |
/// | a result that borrows from the transaction | that ends before the function returns |
/// | a call with anything but `&pool`, `&mut client` or `&mut *tx` | no transaction can begin on it |
///
/// An alias or a struct that hides a `&mut` is a `&mut` parameter too, and so is a `Mutex` or a `Cell`: what a rolled-back
/// attempt writes there stays. The attribute sees only what the signature spells out.
///
/// # Other attributes
///
/// They stay on the function. One that rewrites the body, such as `#[tracing::instrument]`, goes below
/// `#[transactional]`, with `skip_all` or `skip(source)`: then its span is the whole call's, attempts and sleeps included.
/// Above, it would rewrite what each attempt runs, and move the parameters into it.
///
/// # Functions that call themselves
///
/// As with any `async fn`, the inner call goes into a box. Make that box in a function that names its type: through a plain
/// `Box::pin(descendants(…))` rustc cannot tell whether the future is `Send`, and refuses to spawn it (E0275, "overflow").
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
/// Each of these calls is a savepoint. If that is too much, put the recursion into a plain `async fn` that takes
/// `&mut Transaction<'_>`, and call it from one transactional function.
///
/// # What it adds to the documentation
///
/// A `pub` function with a doc comment gets a section at its end: isolation, what is retried and how often, and for how
/// long a call sleeps at most. So `retries = 5, deadlock_retries = 5, isolation = "serializable"` reads
///
/// > Runs as a `SERIALIZABLE` transaction, and again where that fails:
/// >
/// > - up to 5 times more after losing to a concurrent transaction (deadlock, serialization failure, lock not available),
/// >   sleeping 79.6 ms at most in all;
/// > - up to 5 times more after a failure of the surroundings (connection lost before `COMMIT`, failover, no free
/// >   connection), sleeping 1.6 s at most in all.
/// >
/// > In an open transaction it is a savepoint, and the outermost call does the retrying.
///
/// `undocumented` turns that off.
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

// Named in errors of the compiler: reachable, so that their paths are short.
#[doc(hidden)]
pub use crate::call::source::MadeFrom;
pub use crate::call::source::Source;
pub use crate::classify::Class;
pub use crate::commit::{INSTALL_SQL, install};
pub use crate::driver::classify;
pub use crate::error::{Cause, CommitOutcome, Error, Identity, ParseIdentityError, Phase, PoolError};
pub use crate::pool::{BoxFuture, CancelStream, Pool, Reconnect, Session, WithCancel};
#[doc(hidden)]
pub use crate::transaction::forbidden::{BegunByBody, EndedByBody};
pub use crate::transaction::{Transaction, Watched};
