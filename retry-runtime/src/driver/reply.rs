//! A reply whose await can be dropped and resumed: it outlives the call that sent the message.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use futures_core::Stream;
use tokio_postgres::{Client, Error as PgError, SimpleQueryMessage, SimpleQueryRow, SimpleQueryStream};

/// The reply to a message of simple statements that has been sent.
pub(crate) struct Reply {
    stream: Pin<Box<SimpleQueryStream>>,
    /// How many of the statements have succeeded.
    completed: u32,
}

impl Reply {
    /// Sends statements now. A future of tokio-postgres sends its message when it is first polled, and this one does
    /// not wait for anything else.
    pub(crate) fn send(client: &Client, sql: &str) -> Result<Self, PgError> {
        let sent = pin!(client.simple_query_raw(sql));
        match sent.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(stream) => Ok(Self { stream: Box::pin(stream?), completed: 0 }),
            Poll::Pending => unreachable!("a simple query is sent without waiting"),
        }
    }

    /// Waits for the end of the reply, or its first error.
    ///
    /// # Cancel safety
    /// If the future is dropped, the next call continues.
    pub(crate) async fn end(&mut self) -> Result<(), PgError> {
        poll_fn(|cx| self.poll_end(cx)).await
    }

    /// How many of the statements have succeeded so far.
    pub(crate) fn completed(&self) -> u32 {
        self.completed
    }

    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PgError>> {
        while let Some(row) = ready!(self.poll_row(cx)) {
            row?;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads up to the next row. `None`: the reply has ended.
    pub(crate) fn poll_row(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<SimpleQueryRow, PgError>>> {
        while let Some(message) = ready!(self.stream.as_mut().poll_next(cx)) {
            match message {
                Ok(SimpleQueryMessage::Row(row)) => return Poll::Ready(Some(Ok(row))),
                Ok(SimpleQueryMessage::CommandComplete(_)) => self.completed += 1,
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        Poll::Ready(None)
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}
