//! Savepoints: of nested calls, and those that a body begins itself.

use std::fmt;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::driver::{self, DriverError};
use crate::error::Error;
use crate::transaction::Transaction;
use crate::transaction::context::{SavepointName, TxContext, rollback_sql};
use crate::transaction::pipeline::Pipeline;
use crate::transaction::status::BlindSpots;

/// Begins the savepoint of `context`, whose depth is that of the savepoint.
pub(crate) async fn begin<'a>(
    context: TxContext<'a>,
    pipeline: Arc<dyn Pipeline + 'a>,
    name: &impl fmt::Display,
) -> Result<Transaction<'a>, DriverError> {
    // A drop during this wait must not roll back to a savepoint that does not exist.
    let guard = poll_fn(|cx| context.status.poll_send(cx, BlindSpots::default())).await;
    let mut sent = Sent { context, name, has_reply: false };
    let result = pipeline.during(context.run(guard, &format!("SAVEPOINT {name}"))).await;
    if result.is_ok() && context.status.is_begin_pending() {
        // Its reply has arrived. It is read here, so that no statement of the savepoint is held back until after its end.
        poll_fn(|cx| context.status.poll_begin(cx)).await;
    }
    sent.has_reply = true;
    // Statements from before the mark have succeeded, or SAVEPOINT would have failed.
    result.map(|()| Transaction::with_pipeline(context, Some(context.status.mark()), pipeline))
}

/// A savepoint that may exist. A drop before the reply ends it, and forgives nothing: none of its statements has left.
struct Sent<'a, N: fmt::Display> {
    context: TxContext<'a>,
    name: &'a N,
    has_reply: bool,
}

impl<N: fmt::Display> Drop for Sent<'_, N> {
    fn drop(&mut self) {
        if !self.has_reply {
            self.context.queue_rollback(&rollback_sql(self.name));
        }
    }
}

/// Ends a savepoint, and keeps what was done since it began. If that fails, rolls back to it.
pub(crate) async fn release(tx: &mut Transaction<'_>, name: &impl fmt::Display) -> Result<(), Error> {
    // If the call is dropped in this wait, a rollback to the savepoint follows. If the savepoint is released by then,
    // that rollback fails and aborts the transaction. So what the caller gave up is never committed.
    if tx.pipeline.delays_commit() {
        tx.pipeline.end().await;
    }
    let error = match tx.take_sent_error() {
        Some(error) => error,
        None => match tx.pipeline.during(tx.context.execute(&format!("RELEASE {name}"))).await {
            Ok(()) => {
                tx.ended = true;
                return Ok(());
            }
            Err(error) if driver::failure_of(&error).is_symptom() => {
                tx.take_sent_error().unwrap_or_else(|| Error::aborted(tx.context.status.failure().as_ref()))
            }
            Err(error) => Error::from(error),
        },
    };
    // If it fails too, the status records it. It does not replace the error.
    let _ = roll_back(tx, name).await;
    Err(error)
}

/// Rolls back to a savepoint, and ends it. A conflict stays recorded: the outermost call retries, whatever the body does.
pub(crate) async fn roll_back(tx: &mut Transaction<'_>, name: &impl fmt::Display) -> Result<(), DriverError> {
    end(tx);
    tx.pipeline.during(tx.context.roll_back_with(&rollback_sql(name))).await
}

/// Its rollback is about to be sent. Before the wait, because the call may be dropped in it: the savepoint's `on_commit`
/// hooks must not run then.
fn end(tx: &mut Transaction<'_>) {
    tx.undo_savepoint();
    tx.ended = true;
}

/// A savepoint that the body has begun with [`Transaction::transaction`] or [`Transaction::savepoint`].
///
/// It dereferences to [`Transaction`], so it has all of its methods. It is rolled back unless [`commit`](Self::commit) is
/// called. The rules are those of a nested call: a conflict ends the attempt even if the savepoint is rolled back.
///
/// ```
/// use retry_runtime::{Error, Transaction, transactional};
///
/// /// Imports what can be imported, and returns how many rows that was.
/// #[transactional]
/// async fn import(tx: &mut Transaction<'_>, names: &[String]) -> Result<usize, Error> {
///     let mut imported = 0;
///     for name in names {
///         let savepoint = tx.transaction().await?;
///         if savepoint.execute("INSERT INTO names VALUES ($1)", &[name]).await.is_ok() {
///             savepoint.commit().await?;
///             imported += 1;
///         } // otherwise it is dropped, which rolls it back
///     }
///     Ok(imported)
/// }
/// ```
///
/// # Cancel safety
/// If one of its futures is dropped, the savepoint is rolled back.
pub struct Savepoint<'a> {
    tx: Transaction<'a>,
    name: String,
}

impl Transaction<'_> {
    /// Begins a savepoint, like [`tokio_postgres::Transaction::transaction`].
    pub async fn transaction(&mut self) -> Result<Savepoint<'_>, Error> {
        let name = SavepointName(self.context.depth + 1).to_string();
        self.savepoint(name).await
    }

    /// Begins a savepoint with a name, like [`tokio_postgres::Transaction::savepoint`].
    ///
    /// The name is a part of the SQL: do not take it from outside.
    pub async fn savepoint(&mut self, name: impl Into<String>) -> Result<Savepoint<'_>, Error> {
        let name = name.into();
        let context = TxContext { depth: self.context.depth + 1, ..self.context };
        let tx = begin(context, self.pipeline.clone(), &name).await?;
        Ok(Savepoint { tx, name })
    }
}

impl Savepoint<'_> {
    /// Keeps what was done since the savepoint began, as a part of the transaction around it.
    ///
    /// # Errors
    /// [`Error::Aborted`] if one of its statements had failed. Then it is rolled back.
    pub async fn commit(mut self) -> Result<(), Error> {
        if self.tx.rollback_only.load(Ordering::Relaxed) {
            self.tx.pipeline.end().await;
            let sent_error = self.tx.take_sent_error();
            self.rollback().await?;
            return sent_error.map_or(Ok(()), Err);
        }
        release(&mut self.tx, &self.name).await
    }

    /// Undoes what was done since the savepoint began.
    ///
    /// # Errors
    /// [`Error::Postgres`] if the connection fails.
    pub async fn rollback(mut self) -> Result<(), Error> {
        Ok(roll_back(&mut self.tx, &self.name).await?)
    }
}

impl<'a> Deref for Savepoint<'a> {
    type Target = Transaction<'a>;

    fn deref(&self) -> &Transaction<'a> {
        &self.tx
    }
}

impl DerefMut for Savepoint<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.tx
    }
}

impl Drop for Savepoint<'_> {
    fn drop(&mut self) {
        if !self.tx.ended {
            end(&mut self.tx);
            self.tx.context.queue_rollback(&rollback_sql(&self.name));
        }
    }
}

impl fmt::Debug for Savepoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Savepoint").field("name", &self.name).field("tx", &self.tx).finish()
    }
}
