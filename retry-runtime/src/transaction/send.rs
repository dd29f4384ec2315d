//! Statements that are sent without waiting for their replies.

use tokio_postgres::{Error, Statement};

use crate::transaction::Transaction;
use crate::transaction::queries::{Params, TypedParams};
use crate::transaction::request::Request;

impl Transaction<'_> {
    /// Sends a prepared statement without waiting for its reply.
    ///
    /// The statement leaves at once, in the order of the calls, and its rows are dropped. Its reply is read later: at the
    /// latest with the reply to `COMMIT`, which leaves in the same flight. So the last statements of a body take no round trip
    /// of their own. The guide explains it in [Fewer round trips](crate::guide::fewer_round_trips).
    ///
    /// If the statement fails, the call ends as if the body had awaited it and returned its error: nothing is committed, a
    /// conflict is retried, and otherwise the call returns [`Error::Postgres`](crate::Error::Postgres). A nested call, and
    /// [`Savepoint::commit`](crate::Savepoint::commit), return that error too, and rolling the savepoint back forgives the
    /// failure. If the body awaits another statement after one that has failed, that fails with "current transaction is
    /// aborted" (25P02).
    ///
    /// ```
    /// use retry_runtime::{Error, Transaction, transactional};
    ///
    /// /// Two flights: `BEGIN` and `SELECT`, then `UPDATE` and `COMMIT`.
    /// #[transactional(begin = "pipelined", isolation = "repeatable read")]
    /// async fn double(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    ///     let select = tx.prepare_cached("SELECT balance FROM accounts WHERE id = $1").await?;
    ///     let update = tx.prepare_cached("UPDATE accounts SET balance = $1 WHERE id = $2").await?;
    ///     let balance: i64 = tx.query_one(&select, &[&id]).await?.get(0);
    ///     tx.send(&update, &[&(2 * balance), &id])?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// If `BEGIN` is pipelined and has no reply yet, the statement leaves once `BEGIN` has succeeded. Other statements leave
    /// after it, except those on the driver's own client (`&**tx`), which may overtake it. If `BEGIN` fails, it never leaves.
    ///
    /// # Errors
    /// If the number of parameters is wrong, or one of them cannot be encoded. The parameters are encoded in this call.
    /// Nothing was sent then, and the transaction goes on.
    pub fn send(&self, statement: &Statement, params: &Params<'_>) -> Result<(), Error> {
        self.pipeline.send(Request::prepared(self.context.client, statement, params)?, None);
        Ok(())
    }

    /// Like [`send`](Self::send), for SQL that is not prepared. The caller states the types of the parameters.
    ///
    /// ```
    /// use retry_runtime::{Error, Transaction, transactional};
    /// use tokio_postgres::types::Type;
    ///
    /// #[transactional]
    /// async fn touch(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    ///     tx.send_typed("UPDATE accounts SET seen = now() WHERE id = $1", &[(&id, Type::INT8)])?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// If a parameter cannot be encoded. Nothing was sent then, and the transaction goes on.
    pub fn send_typed(&self, sql: &str, params: &TypedParams<'_>) -> Result<(), Error> {
        self.pipeline.send(Request::typed(self.context.client, sql, params)?, None);
        Ok(())
    }

    /// Like [`send`](Self::send), for a statement that must affect this number of rows.
    ///
    /// If it affects another number, nothing is committed, and the call returns
    /// [`Error::UnexpectedRows`](crate::Error::UnexpectedRows) without a retry. `COMMIT` is sent only after the reply. So the
    /// call takes one round trip more than with `send`, for all such statements together.
    ///
    /// ```
    /// use retry_runtime::{Error, Transaction, transactional};
    ///
    /// #[transactional]
    /// async fn transfer(tx: &mut Transaction<'_>, from: i64, to: i64, cents: i64) -> Result<(), Error> {
    ///     let add = tx.prepare_cached("UPDATE accounts SET balance = balance + $1 WHERE id = $2").await?;
    ///     tx.send_expecting(1, &add, &[&-cents, &from])?;
    ///     tx.send_expecting(1, &add, &[&cents, &to])?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_expecting(&self, rows: u64, statement: &Statement, params: &Params<'_>) -> Result<(), Error> {
        self.pipeline.send(Request::prepared(self.context.client, statement, params)?, Some(rows));
        Ok(())
    }
}
