//! [`Pool`](crate::Pool) for the pools that the features name, and what their errors mean.

use std::error::Error as StdError;

use crate::classify::Class;

/// The class of a known pool's own error.
#[cfg_attr(not(any(feature = "deadpool", feature = "bb8")), expect(unused_variables))]
pub(crate) fn classify(error: &(dyn StdError + 'static)) -> Option<Class> {
    #[cfg(feature = "deadpool")]
    if let Some(class) = deadpool::classify(error) {
        return Some(class);
    }
    #[cfg(feature = "bb8")]
    if let Some(class) = bb8_pool::classify(error) {
        return Some(class);
    }
    None
}

#[cfg(feature = "deadpool")]
mod deadpool {
    use std::error::Error as StdError;

    use deadpool_postgres::{Object, Pool as Deadpool, PoolError, TimeoutType};
    use tokio_postgres::{Client, Error as PgError, Statement};

    use crate::classify::Class;
    use crate::error::Error;
    use crate::source::{BoxFuture, Kind, MadeFrom, Pool, Session, Source};

    #[diagnostic::do_not_recommend]
    impl<'a> MadeFrom<&'a mut Object> for Source<'a> {
        fn made_from(object: &'a mut Object) -> Self {
            Self(Kind::Client(object, Some(object)))
        }
    }

    impl Pool for Deadpool {
        fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, Error>> {
            Box::pin(async {
                match self.get().await {
                    Ok(object) => Ok(Box::new(object) as Box<dyn Session>),
                    Err(PoolError::Backend(error)) => Err(Error::Postgres(error)),
                    Err(error) => Err(Error::Pool(Box::new(error))),
                }
            })
        }

        /// Clones share their manager.
        fn id(&self) -> usize {
            std::ptr::from_ref(self.manager()).addr()
        }
    }

    impl Session for Object {
        fn client(&self) -> &Client {
            self
        }

        fn discard(self: Box<Self>) {
            drop(Object::take(*self));
        }

        fn prepare_cached<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<Statement, PgError>> {
            Box::pin(deadpool_postgres::ClientWrapper::prepare_cached(self, sql))
        }

        fn clear_statement_cache(&self) {
            self.statement_cache.clear();
        }
    }

    pub(super) fn classify(error: &(dyn StdError + 'static)) -> Option<Class> {
        match error.downcast_ref::<PoolError>()? {
            PoolError::Timeout(TimeoutType::Wait) => Some(Class::Capacity),
            PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => Some(Class::Connection),
            PoolError::Backend(error) => crate::classify(error),
            _ => Some(Class::Fatal),
        }
    }
}

#[cfg(feature = "bb8")]
mod bb8_pool {
    use std::error::Error as StdError;

    use bb8::{ManageConnection, PooledConnection, RunError};
    use bb8_postgres::PostgresConnectionManager as Manager;
    use tokio::runtime::Handle as Runtime;
    use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
    use tokio_postgres::{Client, Error as PgError, Socket};

    use crate::classify::Class;
    use crate::error::Error;
    use crate::source::{BoxFuture, Kind, MadeFrom, Pool, Session, Source};

    #[diagnostic::do_not_recommend]
    impl<'a, T> MadeFrom<&'a mut PooledConnection<'_, Manager<T>>> for Source<'a>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        fn made_from(connection: &'a mut PooledConnection<'_, Manager<T>>) -> Self {
            Self(Kind::Client(connection, None))
        }
    }

    impl<T> Pool for bb8::Pool<Manager<T>>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, Error>> {
            Box::pin(async {
                match self.get_owned().await {
                    Ok(connection) => {
                        let lent = Lent { connection: Some(connection), runtime: Runtime::current() };
                        Ok(Box::new(lent) as Box<dyn Session>)
                    }
                    Err(RunError::User(error)) => Err(Error::Postgres(error)),
                    Err(error @ RunError::TimedOut) => Err(Error::Pool(Box::new(error))),
                }
            })
        }

        /// Clones share an address, which only their `Debug` tells. If it does not any more, they count as several pools.
        fn id(&self) -> usize {
            let text = format!("{self:?}");
            let digits = text.split_once("0x").map_or("", |(_, digits)| digits.trim_end_matches(')'));
            usize::from_str_radix(digits, 16).unwrap_or(std::ptr::from_ref(self).addr())
        }
    }

    /// A connection that ends in the runtime where it was taken, if there is no other: bb8 replaces one that was closed by
    /// a task, and would panic.
    struct Lent<M: ManageConnection> {
        connection: Option<PooledConnection<'static, M>>,
        runtime: Runtime,
    }

    impl<M: ManageConnection> Drop for Lent<M> {
        fn drop(&mut self) {
            let _runtime = Runtime::try_current().is_err().then(|| self.runtime.enter());
            drop(self.connection.take());
        }
    }

    impl<T> Session for Lent<Manager<T>>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        fn client(&self) -> &Client {
            self.connection.as_ref().expect("held until it is dropped")
        }

        /// bb8 has no way to take a connection out, but it does not take a closed one back. This closes the
        /// client as the crate `postgres` does.
        fn discard(mut self: Box<Self>) {
            if let Some(connection) = &mut self.connection {
                connection.__private_api_close();
            }
        }
    }

    pub(super) fn classify(error: &(dyn StdError + 'static)) -> Option<Class> {
        match error.downcast_ref::<RunError<PgError>>()? {
            RunError::TimedOut => Some(Class::Capacity),
            RunError::User(error) => crate::classify(error),
        }
    }
}
