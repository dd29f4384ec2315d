//! Methods of tokio-postgres' transaction that the body must not call. Each is a compile error that says what to do.

use std::future::{Pending, pending};

use tokio_postgres::Error;

use crate::transaction::Transaction;

/// Implemented by no type.
#[diagnostic::on_unimplemented(
    message = "the body does not end its transaction: `Ok` commits it, and `Err` rolls it back",
    label = "remove this call"
)]
pub trait EndedByBody {}

/// Implemented by no type.
#[diagnostic::on_unimplemented(
    message = "a savepoint is a call of a `#[transactional]` function with `&mut *tx`",
    label = "move what it is for into such a function"
)]
pub trait BegunByBody {}

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

    pub fn transaction(&self) -> Pending<Result<Self, Error>>
    where
        Self: BegunByBody,
    {
        pending()
    }

    pub fn savepoint(&self, _name: &str) -> Pending<Result<Self, Error>>
    where
        Self: BegunByBody,
    {
        pending()
    }
}
