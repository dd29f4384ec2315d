//! What the transaction of tokio-postgres has, and the body's has not: who calls it is told why while compiling.

use std::future::{Pending, pending};

use tokio_postgres::Error;

use crate::transaction::Transaction;

/// Implemented by nothing.
#[diagnostic::on_unimplemented(
    message = "the body does not end its transaction: `Ok` commits it, and `Err` rolls it back",
    label = "remove this call"
)]
pub trait EndedByBody {}

/// Implemented by nothing.
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
