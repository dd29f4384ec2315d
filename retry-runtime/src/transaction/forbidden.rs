//! Why the body must not call some methods of tokio-postgres' transaction, for the compiler to say.

/// Implemented by no type.
#[diagnostic::on_unimplemented(
    message = "the body does not end its transaction: `Ok` commits it, and `Err` rolls it back",
    label = "remove this call",
    note = "work that follows the commit goes into `tx.on_commit(…)`",
    note = "to roll back and still return a value, call `tx.set_rollback_only()`"
)]
pub trait EndedByBody {}
