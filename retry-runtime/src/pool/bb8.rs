//! The pool of bb8-postgres.

use bb8::{ManageConnection, Pool as Bb8, PooledConnection, RunError};
use bb8_postgres::PostgresConnectionManager as Manager;
use tokio::runtime::Handle as Runtime;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Socket};

use crate::error::PoolError;
use crate::pool::session::{BoxFuture, Connection, Pool, Session};

impl<T> Pool for Bb8<Manager<T>>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
        Box::pin(async {
            match self.get_owned().await {
                Ok(connection) => {
                    let loan = Loan { connection: Some(connection), runtime: Runtime::current() };
                    Ok(Box::new(loan) as Box<dyn Session>)
                }
                Err(RunError::User(error)) => Err(PoolError::refused(error)),
                Err(error @ RunError::TimedOut) => Err(PoolError::timeout(error)),
            }
        })
    }

    /// Clones share an address that only their `Debug` output shows. If a later bb8 does not show it, clones count as
    /// several pools.
    fn id(&self) -> usize {
        let text = format!("{self:?}");
        let digits = text.split_once("0x").map_or("", |(_, digits)| digits.trim_end_matches(')'));
        usize::from_str_radix(digits, 16).unwrap_or(std::ptr::from_ref(self).addr())
    }
}

/// A connection and the runtime that it was taken in. bb8 spawns a task to replace a closed connection, which would
/// panic outside of a runtime.
struct Loan<M: ManageConnection> {
    connection: Option<PooledConnection<'static, M>>,
    runtime: Runtime,
}

impl<M: ManageConnection> Drop for Loan<M> {
    fn drop(&mut self) {
        let _runtime = Runtime::try_current().is_err().then(|| self.runtime.enter());
        drop(self.connection.take());
    }
}

impl<T> Session for Loan<Manager<T>>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    fn client(&self) -> &Client {
        self.connection.as_ref().expect("held until it is dropped")
    }

    /// bb8 cannot give a connection away, but it does not take back a closed one. This closes the client as the crate
    /// `postgres` does.
    fn discard(mut self: Box<Self>) {
        if let Some(connection) = &mut self.connection {
            connection.__private_api_close();
        }
    }
}

#[diagnostic::do_not_recommend]
impl<T> Connection for PooledConnection<'_, Manager<T>>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    fn client(&self) -> &Client {
        self
    }
}
