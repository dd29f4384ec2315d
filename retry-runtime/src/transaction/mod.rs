//! What the body holds: a transaction whose every statement is watched.

mod begin_reply;
pub(crate) mod context;
pub(crate) mod deadline;
#[cfg(feature = "testing")]
pub(crate) mod fault;
pub(crate) mod forbidden;
pub(crate) mod generic_client;
pub(crate) mod hooks;
pub(crate) mod pipeline;
mod queries;
mod request;
pub(crate) mod savepoint;
pub(crate) mod scoped;
mod seen;
mod send;
mod state;
pub(crate) mod status;
mod stream;
mod watch;

use std::fmt;
use std::future::{Pending, pending};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::{Client, Error};

pub use self::stream::Watched;
use crate::transaction::context::TxContext;
use crate::transaction::forbidden::EndedByBody;
use crate::transaction::hooks::When;
use crate::transaction::pipeline::{Pipeline, SentStatements};
use crate::transaction::state::SavepointMark;

/// An open transaction, or a savepoint of one: the first parameter of a `#[transactional]` function.
///
/// It has the query methods of [`tokio_postgres::Transaction`], except portals. Helpers that also run on a client take
/// `&impl` [`GenericClient`](crate::GenericClient). It dereferences to [`tokio_postgres::Client`], so that `&**tx` fits
/// helpers that take `&impl tokio_postgres::GenericClient`. The retry loop sends `BEGIN`, `COMMIT` and `ROLLBACK`: the body
/// sends none of them itself.
///
/// Each method notes how its statement ended. The retry loop decides by the first failure, whatever the body does with
/// the error.
///
/// ```
/// use retry_runtime::{Error, Transaction, transactional};
///
/// #[transactional]
/// async fn rename(tx: &mut Transaction<'_>, id: i64, name: &str) -> Result<u64, Error> {
///     Ok(tx.execute("UPDATE accounts SET name = $1 WHERE id = $2", &[&name, &id]).await?)
/// }
/// ```
///
/// # Errors
/// Each method returns the errors of the method of [`Client`] with its name.
///
/// # Cancel safety
/// A future of these methods may be dropped at any time. The server still runs a statement that was already sent.
/// A transaction that is dropped before its outcome is known is rolled back: `ROLLBACK` is sent at once, before
/// anything else on the connection.
pub struct Transaction<'a> {
    pub(crate) context: TxContext<'a>,
    /// What to restore, if this is a savepoint.
    pub(crate) savepoint: Option<SavepointMark>,
    /// Whether there is nothing left that its drop must roll back.
    pub(crate) ended: bool,
    /// Whether it is rolled back even if the body returns `Ok`.
    pub(crate) rollback_only: AtomicBool,
    /// The sent statements of the attempt.
    pub(crate) pipeline: Arc<dyn Pipeline + 'a>,
}

impl<'a> Transaction<'a> {
    /// A transaction that is about to begin.
    pub(crate) fn new(context: TxContext<'a>) -> Self {
        Self::with_pipeline(context, None, pipeline(&context))
    }

    /// A savepoint of a transaction that has this pipeline.
    fn with_pipeline(
        context: TxContext<'a>,
        savepoint: Option<SavepointMark>,
        pipeline: Arc<dyn Pipeline + 'a>,
    ) -> Self {
        Self { context, savepoint, ended: false, rollback_only: AtomicBool::new(false), pipeline }
    }

    /// Which attempt this is: 1 for the first.
    ///
    /// ```
    /// # use retry_runtime::Transaction;
    /// fn is_retry(tx: &Transaction<'_>) -> bool {
    ///     tx.attempt() > 1
    /// }
    /// ```
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.context.id.attempt
    }

    /// Makes the call roll back and return what the body returns, `Ok` or `Err`, without a retry.
    ///
    /// In a nested call this applies to the savepoint alone: the transaction around it goes on. But a conflict in the
    /// savepoint still ends the attempt, and the outermost call retries.
    ///
    /// ```
    /// use retry_runtime::{Error, Transaction, transactional};
    ///
    /// /// How many rows the update would change.
    /// #[transactional]
    /// async fn dry_run(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    ///     tx.set_rollback_only();
    ///     Ok(tx.execute("UPDATE accounts SET balance = 0 WHERE balance < 0", &[]).await?)
    /// }
    /// ```
    ///
    /// # Errors
    /// Even if the body returns `Ok`, the call returns an [`Error`](crate::Error) if the transaction could not begin, if the
    /// deadline cuts the body off, or if an earlier attempt may be committed.
    pub fn set_rollback_only(&self) {
        self.rollback_only.store(true, Ordering::Relaxed);
    }

    /// Defers `work` until the transaction is committed.
    ///
    /// It runs after the connection was given back and before the call returns. Hooks run in the order of registration.
    /// It is dropped without running if this attempt, or the savepoint that registered it, is rolled back, if the outcome
    /// of the commit is unknown, or if the caller drops the call.
    ///
    /// `work` outlives the body, so it cannot borrow. It cannot take a parameter of the function either, because the next
    /// attempt needs it. Clone what `work` uses, and move the clones into it:
    ///
    /// ```
    /// use retry_runtime::{Error, Transaction, transactional};
    /// # #[derive(Clone)]
    /// # struct Mailer;
    /// # impl Mailer {
    /// #     async fn welcome(&self, _address: &str) {}
    /// # }
    ///
    /// #[transactional]
    /// async fn register(tx: &mut Transaction<'_>, mailer: &Mailer, address: String) -> Result<(), Error> {
    ///     tx.execute("INSERT INTO users (address) VALUES ($1)", &[&address]).await?;
    ///     let (mailer, address) = (mailer.clone(), address.clone());
    ///     tx.on_commit(async move { mailer.welcome(&address).await });
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Panics
    /// A panic of `work` reaches the caller, after the other hooks have run. The transaction stays committed.
    pub fn on_commit(
        &self,
        work: impl Future<Output = ()> + Send + 'static, // clone what it uses, and move the clones into it
    ) {
        self.context.status.with_hooks(|hooks| hooks.add(When::Committed, work));
    }

    /// Defers `work` until this attempt, or the savepoint that registered it, is rolled back.
    ///
    /// It runs after every such attempt, when the connection was given back, and before the next attempt begins or the
    /// call returns. It is dropped without running if the outcome of the commit is unknown, or if the caller drops the
    /// call.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU32, Ordering};
    ///
    /// use retry_runtime::{Error, Transaction, transactional};
    ///
    /// #[transactional]
    /// async fn reserve(tx: &mut Transaction<'_>, free: &Arc<AtomicU32>) -> Result<(), Error> {
    ///     free.fetch_sub(1, Ordering::Relaxed);
    ///     let undo = free.clone();
    ///     tx.on_rollback(async move {
    ///         undo.fetch_add(1, Ordering::Relaxed);
    ///     });
    ///     tx.execute("INSERT INTO reservations DEFAULT VALUES", &[]).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Panics
    /// As for [`on_commit`](Self::on_commit).
    pub fn on_rollback(
        &self,
        work: impl Future<Output = ()> + Send + 'static, // clone what it uses, and move the clones into it
    ) {
        self.context.status.with_hooks(|hooks| hooks.add(When::RolledBack, work));
    }
}

/// A pipeline for the sent statements of an attempt.
pub(crate) fn pipeline<'a>(context: &TxContext<'a>) -> Arc<dyn Pipeline + 'a> {
    Arc::new(SentStatements::new(context.client, context.status))
}

impl Transaction<'_> {
    /// Takes the error of the first sent statement that failed. In a savepoint: since it began.
    pub(crate) fn take_sent_error(&self) -> Option<crate::error::Error> {
        self.context.status.take_sent_error(self.savepoint.as_ref())
    }

    /// Forgets what the savepoint has seen and registered.
    pub(crate) fn undo_savepoint(&mut self) {
        if let Some(mark) = self.savepoint.take() {
            // A symptom that was seen may be of a sent statement's failure, which is read and forgiven with it.
            self.pipeline.read();
            self.context.status.roll_back_to(mark);
            // A conflict among them is not forgiven.
            self.pipeline.delay_commit();
        }
    }
}

/// tokio-postgres' transaction has these methods, and the body must not call them.
#[doc(hidden)]
impl Transaction<'_> {
    pub fn commit(&self) -> Pending<Result<(), Error>>
    where
        Self: EndedByBody,
    {
        pending()
    }

    pub fn rollback(&self) -> Pending<Result<(), Error>>
    where
        Self: EndedByBody,
    {
        pending()
    }
}

/// For helpers that take `&impl tokio_postgres::GenericClient`: `helper(&**tx)`. Their statements are not watched, so
/// `COMMIT` is sent with a check in front of it. Those of [`GenericClient`](crate::GenericClient) are watched.
impl Deref for Transaction<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.context.status.use_raw_client();
        self.context.client
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // The clean-up of a pooled session begins with the rollback.
        let is_cleaned_up = self.savepoint.is_none() && self.context.pooled;
        if !self.ended && !is_cleaned_up {
            self.undo_savepoint();
            self.context.queue_rollback(&self.context.rollback_sql());
        }
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("function", &self.context.id.function)
            .field("attempt", &self.context.id.attempt)
            .field("depth", &self.context.depth)
            .finish_non_exhaustive()
    }
}
