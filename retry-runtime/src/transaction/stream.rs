//! Streams of rows and COPY data, watched to their end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use futures_core::Stream;
use futures_sink::Sink;
use pin_project_lite::pin_project;
use tokio_postgres::{CopyInSink, Error, RowStream};

use crate::transaction::status::StatementGuard;

pin_project! {
    /// A stream or sink of tokio-postgres whose failures the retry loop sees.
    ///
    /// Read it to its end, or finish the COPY. If it is dropped earlier, a failure of its statement may go unseen, so
    /// `COMMIT` is sent with a check in front of it.
    ///
    /// ```
    /// use futures_util::TryStreamExt;
    /// use retry_runtime::{Error, Transaction, transactional};
    ///
    /// #[transactional(read_only)]
    /// async fn total(tx: &mut Transaction<'_>) -> Result<i64, Error> {
    ///     let rows = tx.query_raw("SELECT cents FROM accounts", std::iter::empty::<i64>()).await?;
    ///     let mut rows = std::pin::pin!(rows);
    ///     let mut total = 0;
    ///     while let Some(row) = rows.try_next().await? {
    ///         total += row.get::<_, i64>(0);
    ///     }
    ///     Ok(total)
    /// }
    /// ```
    #[derive(Debug)]
    pub struct Watched<'a, S> {
        #[pin]
        inner: S,
        statement: StatementGuard<'a>,
    }
}

impl<'a, S> Watched<'a, S> {
    pub(crate) fn new(inner: S, statement: StatementGuard<'a>) -> Self {
        Self { inner, statement }
    }
}

impl Watched<'_, RowStream> {
    /// Like [`RowStream::rows_affected`].
    #[must_use]
    pub fn rows_affected(&self) -> Option<u64> {
        self.inner.rows_affected()
    }
}

impl<T> Watched<'_, CopyInSink<T>>
where
    T: Buf + 'static + Send,
{
    /// Like [`CopyInSink::finish`].
    pub async fn finish(self: Pin<&mut Self>) -> Result<u64, Error> {
        let this = self.project();
        let result = this.inner.finish().await;
        this.statement.answered(result.as_ref().err());
        result
    }
}

impl<S, T> Stream for Watched<'_, S>
where
    S: Stream<Item = Result<T, Error>>,
{
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        let item = ready!(this.inner.poll_next(cx));
        match &item {
            Some(Ok(_)) => {}
            Some(Err(error)) => this.statement.answered(Some(error)),
            None => this.statement.answered(None),
        }
        Poll::Ready(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

impl<T> Sink<T> for Watched<'_, CopyInSink<T>>
where
    T: Buf + 'static + Send,
{
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.project();
        watch(this.inner.poll_ready(cx), this.statement)
    }

    fn start_send(self: Pin<&mut Self>, item: T) -> Result<(), Error> {
        self.project().inner.start_send(item)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.project();
        watch(this.inner.poll_flush(cx), this.statement)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.project();
        let closed = ready!(this.inner.poll_close(cx));
        this.statement.answered(closed.as_ref().err());
        Poll::Ready(closed)
    }
}

/// Notes a failure on the way.
fn watch(poll: Poll<Result<(), Error>>, statement: &mut StatementGuard<'_>) -> Poll<Result<(), Error>> {
    if let Poll::Ready(Err(error)) = &poll {
        statement.answered(Some(error));
    }
    poll
}
