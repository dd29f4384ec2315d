//! Streams of rows and COPY data that are watched to their end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use futures_core::Stream;
use futures_sink::Sink;
use pin_project_lite::pin_project;
use tokio_postgres::{CopyInSink, Error, RowStream};

use crate::state::Ticket;

pin_project! {
    /// A stream or sink of tokio-postgres, whose failures the retry loop sees.
    ///
    /// Read it to its end, or finish the COPY. Dropped earlier, its statement counts as unanswered.
    #[derive(Debug)]
    pub struct Watched<'a, S> {
        #[pin]
        inner: S,
        ticket: Ticket<'a>,
    }
}

impl<'a, S> Watched<'a, S> {
    pub(crate) fn new(inner: S, ticket: Ticket<'a>) -> Self {
        Self { inner, ticket }
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
        this.ticket.answered(result.as_ref().err());
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
            Some(Err(error)) => this.ticket.answered(Some(error)),
            None => this.ticket.answered(None),
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
        watch(this.inner.poll_ready(cx), this.ticket)
    }

    fn start_send(self: Pin<&mut Self>, item: T) -> Result<(), Error> {
        self.project().inner.start_send(item)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.project();
        watch(this.inner.poll_flush(cx), this.ticket)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.project();
        let closed = ready!(this.inner.poll_close(cx));
        this.ticket.answered(closed.as_ref().err());
        Poll::Ready(closed)
    }
}

/// Notes a failure on the way.
fn watch(poll: Poll<Result<(), Error>>, ticket: &mut Ticket<'_>) -> Poll<Result<(), Error>> {
    if let Poll::Ready(Err(error)) = &poll {
        ticket.answered(Some(error));
    }
    poll
}
