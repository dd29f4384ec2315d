//! The handle that the body gets: every statement, watched.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use pin_project_lite::pin_project;
use tokio_postgres::types::{BorrowToSql, FromSqlOwned, ToSql, Type};
use tokio_postgres::{
    Client, CopyInSink, CopyOutStream, Error, Row, RowStream, SimpleQueryMessage, SimpleQueryStream, Statement,
    ToStatement,
};

use crate::handle::Handle;
use crate::hooks::When;
use crate::scope::{Outer, Scope};
use crate::state::{Seen, State, Ticket, Unseen};
use crate::stream::Watched;

type Params<'p> = [&'p (dyn ToSql + Sync)];
type TypedParams<'p> = [(&'p (dyn ToSql + Sync), Type)];

/// An open transaction, or a savepoint of one: what a `#[transactional]` function works with.
///
/// It has the query methods of [`tokio_postgres::Transaction`], except portals, and dereferences to
/// [`tokio_postgres::Client`], so that `&**tx` fits helpers that take `&impl GenericClient`. `BEGIN`, `COMMIT`,
/// `ROLLBACK` and savepoints are sent by the retry loop: the body sends none of them itself.
///
/// Each method notes how its statement ended, and the retry loop decides by the first failure, whatever the body
/// makes of the error.
///
/// # Cancellation
/// A future of these methods may be dropped at any time; the server still runs a statement that was already sent.
/// A transaction that goes out of scope before its outcome is known is rolled back: `ROLLBACK` leaves at once,
/// before anything else that is sent on the connection.
pub struct Transaction<'a> {
    pub(crate) handle: Handle<'a>,
    /// What to go back to, where this is a savepoint.
    pub(crate) savepoint: Option<Mark>,
    /// Whether nothing is left to roll back.
    pub(crate) ended: bool,
}

/// The attempt's state when a savepoint began.
pub(crate) struct Mark {
    pub(crate) seen: Seen,
    pub(crate) hooks: usize,
}

impl<'a> Transaction<'a> {
    /// The scope that the body runs in.
    #[doc(hidden)]
    #[must_use]
    pub fn scope(&self) -> Scope<'a> {
        let Handle { function, pool, deadline, state, depth, .. } = self.handle;
        Scope { outer: Outer { function, pool }, deadline, state, outermost: depth == 0 }
    }

    /// Whether it is unknown if an earlier attempt was committed.
    #[doc(hidden)]
    #[must_use]
    pub fn is_after_unknown(&self) -> bool {
        self.handle.after_unknown
    }

    /// Which attempt this is: 1 for the first.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.handle.attempt
    }

    /// Has `work` run once the transaction is committed.
    ///
    /// It runs after the connection was given back and before the call returns, in the order of registration. It is
    /// dropped unrun where this attempt is rolled back, where the commit's outcome is unknown, where a savepoint
    /// that registered it is rolled back, and where the caller drops the call.
    pub fn on_commit(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.state.with_hooks(|hooks| hooks.add(When::Committed, work));
    }

    /// Has `work` run once this attempt, or the savepoint that registered it, is rolled back.
    ///
    /// It runs after every such attempt, with the connection given back, before the next attempt begins or the call
    /// returns. It is dropped unrun where the commit's outcome is unknown, and where the caller drops the call.
    pub fn on_rollback(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.state.with_hooks(|hooks| hooks.add(When::RolledBack, work));
    }

    /// Prepares a statement, or takes it from the pool's statement cache where the pool has one.
    pub async fn prepare_cached(&self, sql: &str) -> Result<Statement, Error> {
        match self.handle.session {
            Some(session) => self.watch(session.prepare_cached(sql)).await.map(prepared),
            None => self.prepare(sql).await,
        }
    }

    /// Like [`Client::prepare`].
    pub async fn prepare(&self, query: &str) -> Result<Statement, Error> {
        self.watch(self.handle.client.prepare(query)).await.map(prepared)
    }

    /// Like [`Client::prepare_typed`].
    pub async fn prepare_typed(&self, query: &str, parameter_types: &[Type]) -> Result<Statement, Error> {
        self.watch(self.handle.client.prepare_typed(query, parameter_types)).await.map(prepared)
    }

    /// Like [`Client::query`].
    pub async fn query<T>(&self, statement: &T, params: &Params<'_>) -> Result<Vec<Row>, Error>
    where
        T: ?Sized + ToStatement,
    {
        self.watch_command(params.len(), self.handle.client.query(statement, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::query_scalar`].
    pub async fn query_scalar<R, T>(&self, statement: &T, params: &Params<'_>) -> Result<Vec<R>, Error>
    where
        R: FromSqlOwned,
        T: ?Sized + ToStatement + fmt::Debug,
    {
        self.watch(self.handle.client.query_scalar(statement, params)).await.map(done)
    }

    /// Like [`Client::query_one`].
    pub async fn query_one<T>(&self, statement: &T, params: &Params<'_>) -> Result<Row, Error>
    where
        T: ?Sized + ToStatement,
    {
        self.watch(self.handle.client.query_one(statement, params)).await.map(done)
    }

    /// Like [`Client::query_one_scalar`].
    pub async fn query_one_scalar<R, T>(&self, statement: &T, params: &Params<'_>) -> Result<R, Error>
    where
        R: FromSqlOwned,
        T: ?Sized + ToStatement + fmt::Debug,
    {
        self.watch(self.handle.client.query_one_scalar(statement, params)).await.map(done)
    }

    /// Like [`Client::query_opt`].
    pub async fn query_opt<T>(&self, statement: &T, params: &Params<'_>) -> Result<Option<Row>, Error>
    where
        T: ?Sized + ToStatement,
    {
        self.watch_command(params.len(), self.handle.client.query_opt(statement, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::query_opt_scalar`].
    pub async fn query_opt_scalar<R, T>(&self, statement: &T, params: &Params<'_>) -> Result<Option<R>, Error>
    where
        R: FromSqlOwned,
        T: ?Sized + ToStatement + fmt::Debug,
    {
        self.watch(self.handle.client.query_opt_scalar(statement, params)).await.map(done)
    }

    /// Like [`Client::query_raw`].
    pub async fn query_raw<T, P, I>(&self, statement: &T, params: I) -> Result<Watched<'_, RowStream>, Error>
    where
        T: ?Sized + ToStatement,
        P: BorrowToSql,
        I: IntoIterator<Item = P>,
        I::IntoIter: ExactSizeIterator,
    {
        self.watch(self.handle.client.query_raw(statement, params)).await.map(stream)
    }

    /// Like [`Client::query_typed`].
    pub async fn query_typed(&self, query: &str, params: &TypedParams<'_>) -> Result<Vec<Row>, Error> {
        self.watch_typed(self.handle.client.query_typed(query, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::query_typed_one`].
    pub async fn query_typed_one(&self, query: &str, params: &TypedParams<'_>) -> Result<Row, Error> {
        self.watch_typed(self.handle.client.query_typed_one(query, params)).await.map(done)
    }

    /// Like [`Client::query_typed_opt`].
    pub async fn query_typed_opt(&self, query: &str, params: &TypedParams<'_>) -> Result<Option<Row>, Error> {
        self.watch_typed(self.handle.client.query_typed_opt(query, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::query_typed_raw`].
    pub async fn query_typed_raw<P, I>(&self, query: &str, params: I) -> Result<Watched<'_, RowStream>, Error>
    where
        P: BorrowToSql,
        I: IntoIterator<Item = (P, Type)>,
    {
        self.watch_typed(self.handle.client.query_typed_raw(query, params)).await.map(stream)
    }

    /// Like [`Client::execute`].
    pub async fn execute<T>(&self, statement: &T, params: &Params<'_>) -> Result<u64, Error>
    where
        T: ?Sized + ToStatement,
    {
        self.watch_command(params.len(), self.handle.client.execute(statement, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::execute_typed`].
    pub async fn execute_typed(&self, statement: &str, params: &TypedParams<'_>) -> Result<u64, Error> {
        let executing = self.handle.client.execute_typed(statement, params);
        self.watch_command(params.len(), executing).await.map(done_or_nothing)
    }

    /// Like [`Client::execute_raw`].
    pub async fn execute_raw<T, P, I>(&self, statement: &T, params: I) -> Result<u64, Error>
    where
        T: ?Sized + ToStatement,
        P: BorrowToSql,
        I: IntoIterator<Item = P>,
        I::IntoIter: ExactSizeIterator,
    {
        let params = params.into_iter();
        self.watch_command(params.len(), self.handle.client.execute_raw(statement, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::copy_in`].
    pub async fn copy_in<T, U>(&self, statement: &T) -> Result<Watched<'_, CopyInSink<U>>, Error>
    where
        T: ?Sized + ToStatement,
        U: Buf + 'static + Send,
    {
        self.watch(self.handle.client.copy_in(statement)).await.map(stream)
    }

    /// Like [`Client::copy_out`].
    pub async fn copy_out<T>(&self, statement: &T) -> Result<Watched<'_, CopyOutStream>, Error>
    where
        T: ?Sized + ToStatement,
    {
        // The driver stops at the end of the data, and the statement may yet fail: its triggers fire after that.
        let unseen = Unseen { end: true, ..Unseen::default() };
        self.watch_with(unseen, self.handle.client.copy_out(statement)).await.map(stream)
    }

    /// Like [`Client::simple_query`].
    pub async fn simple_query(&self, query: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        self.watch_command(0, self.handle.client.simple_query(query)).await.map(noted)
    }

    /// Like [`Client::simple_query_raw`].
    pub async fn simple_query_raw(&self, query: &str) -> Result<Watched<'_, SimpleQueryStream>, Error> {
        self.watch_command(0, self.handle.client.simple_query_raw(query)).await.map(stream)
    }

    /// Like [`Client::batch_execute`].
    pub async fn batch_execute(&self, query: &str) -> Result<(), Error> {
        self.watch_command(0, self.handle.client.batch_execute(query)).await.map(noted)
    }

    /// Notes the statement when it leaves, and its failure; its success is for the caller to note.
    fn watch<F>(&self, statement: F) -> Watch<'_, F> {
        self.watch_with(Unseen::default(), statement)
    }

    /// Watches what may be `COMMIT` or `ROLLBACK` if it has no parameters.
    fn watch_command<F>(&self, params: usize, statement: F) -> Watch<'_, F> {
        self.watch_with(Unseen { command: params == 0, ..Unseen::default() }, statement)
    }

    /// Watches a statement whose columns' types the driver may look up afterwards.
    fn watch_typed<F>(&self, statement: F) -> Watch<'_, F> {
        self.watch_with(Unseen { types: true, command: true, ..Unseen::default() }, statement)
    }

    fn watch_with<F>(&self, unseen: Unseen, statement: F) -> Watch<'_, F> {
        Watch { statement, state: self.handle.state, unseen, ticket: None }
    }
}

// A future of its own, as an async function would hold what it waits for twice.
pin_project! {
    struct Watch<'a, F> {
        #[pin]
        statement: F,
        state: &'a State,
        unseen: Unseen,
        ticket: Option<Ticket<'a>>,
    }
}

impl<'a, T, F: Future<Output = Result<T, Error>>> Future for Watch<'a, F> {
    type Output = Result<Answered<'a, T>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let state: &'a State = this.state;
        let at_once = this.ticket.is_none();
        if at_once {
            ready!(state.poll_may_send(cx));
            *this.ticket = Some(state.send(*this.unseen));
        }
        let result = ready!(this.statement.poll(cx));
        let mut ticket = this.ticket.take().expect("put there at the first poll");
        Poll::Ready(match result {
            Ok(value) => Ok(Answered { value, ticket, at_once }),
            Err(error) => {
                ticket.answered(Some(&error));
                Err(error)
            }
        })
    }
}

/// What a statement's future gave.
struct Answered<'a, T> {
    value: T,
    ticket: Ticket<'a>,
    /// When first polled.
    at_once: bool,
}

/// The statement has ended well.
fn done<T>(mut answered: Answered<'_, T>) -> T {
    answered.ticket.proves_all_before();
    answered.value
}

/// The statement has ended well, and perhaps with nothing, as `COMMIT` does.
fn done_or_nothing<T: Yield>(answered: Answered<'_, T>) -> T {
    if answered.value.is_nothing() {
        answered.ticket.gave_nothing();
    }
    done(answered)
}

/// What a statement gives.
trait Yield {
    fn is_nothing(&self) -> bool;
}

impl Yield for u64 {
    fn is_nothing(&self) -> bool {
        *self == 0
    }
}

impl<T> Yield for Vec<T> {
    fn is_nothing(&self) -> bool {
        self.is_empty()
    }
}

impl<T> Yield for Option<T> {
    fn is_nothing(&self) -> bool {
        self.is_none()
    }
}

/// The statements of a simple query have ended well. That proves nothing: an empty one does in any transaction.
fn noted<T>(mut answered: Answered<'_, T>) -> T {
    answered.ticket.gave_nothing();
    answered.ticket.answered(None);
    answered.value
}

fn prepared<T>(mut answered: Answered<'_, T>) -> T {
    answered.ticket.prepared(answered.at_once);
    answered.value
}

/// The statement has begun to answer.
fn stream<S>(answered: Answered<'_, S>) -> Watched<'_, S> {
    answered.ticket.gave_nothing();
    Watched::new(answered.value, answered.ticket)
}

impl Deref for Transaction<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.handle.state.escape();
        self.handle.client
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // A pooled session is handed over to its clean-up, which begins with the rollback.
        let cleaned_up = self.savepoint.is_none() && self.handle.pooled;
        if !self.ended && !cleaned_up {
            self.undo_savepoint();
            self.handle.queue_rollback();
        }
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("function", &self.handle.site.name)
            .field("attempt", &self.handle.attempt)
            .field("depth", &self.handle.depth)
            .finish_non_exhaustive()
    }
}
