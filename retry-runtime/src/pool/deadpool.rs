//! The pool of deadpool-postgres.

use deadpool_postgres::{ClientWrapper, Object, Pool as Deadpool, PoolError as DeadpoolError, Transaction};
use tokio_postgres::{Client, Error as PgError, Statement};

use crate::classify::Class;
use crate::driver;
use crate::error::PoolError;
use crate::pool::session::{BoxFuture, Connection, Pool, Session};

impl Pool for Deadpool {
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
        Box::pin(async {
            match self.get().await {
                Ok(object) => Ok(Box::new(object) as Box<dyn Session>),
                Err(DeadpoolError::Backend(error)) => Err(PoolError::refused(error)),
                Err(error) => Err(PoolError::new(driver::class_of_pool(&error).unwrap_or(Class::Fatal), error)),
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
        Box::pin(ClientWrapper::prepare_cached(self, sql))
    }

    fn clear_statement_cache(&self) {
        self.statement_cache.clear();
    }
}

#[diagnostic::do_not_recommend]
impl Connection for Object {
    fn client(&self) -> &Client {
        self
    }

    fn session(&self) -> Option<&dyn Session> {
        Some(self)
    }
}

#[diagnostic::do_not_recommend]
impl Connection for Transaction<'_> {
    const IN_TRANSACTION: bool = true;

    fn client(&self) -> &Client {
        (**self).client()
    }
}
