//! What the expansion of `#[transactional]` names. Not a public interface: any release may change it.

use std::error::Error as StdError;
use std::fmt::Display;

pub use crate::__body_error as body_error;
pub use crate::call::Call;
pub use crate::call::body::{FromError, Outcome, Scope};
pub use crate::call::callsite::Callsite;
pub use crate::call::finish::BodyError;
pub use crate::call::queue::{Key, QueueKey};
pub use crate::call::source::Source;
pub use crate::policy::{Begin, Damping, Isolation, Jitter, Policy, Queue, UnknownCommit};
use crate::transaction::Transaction;

/// The types of the first parameter.
#[diagnostic::on_unimplemented(
    message = "the first parameter must be the transaction; write `tx: &mut retry_runtime::Transaction<'_>`",
    label = "not a `retry_runtime::Transaction`"
)]
pub trait Lend<'t, 'a> {
    /// Lends the attempt's transaction while the body runs.
    fn lend(tx: &'t mut Transaction<'a>) -> Self;
}

#[diagnostic::do_not_recommend]
impl<'t, 'a> Lend<'t, 'a> for &'t Transaction<'a> {
    fn lend(tx: &'t mut Transaction<'a>) -> Self {
        tx
    }
}

#[diagnostic::do_not_recommend]
impl<'t, 'a> Lend<'t, 'a> for &'t mut Transaction<'a> {
    fn lend(tx: &'t mut Transaction<'a>) -> Self {
        tx
    }
}

/// Coerces the transaction to exactly the declared type, never through `Deref`.
pub fn lend<'t, 'a, T: Lend<'t, 'a>>(tx: &'t mut Transaction<'a>) -> T {
    T::lend(tx)
}

/// The body's error, to be read. How it is read depends on its type: method resolution takes the first of the four
/// traits below that fits.
#[derive(Debug)]
pub struct Unread<'e, E>(pub &'e E);

/// For error types that implement [`std::error::Error`].
pub trait ReadError {
    /// Reads the error and its sources. Keeps the text if `text`.
    fn read(&self, text: bool) -> BodyError;
}

/// For `anyhow::Error`, `eyre::Report`, `Box<dyn Error + Send + Sync>` and others that refer to an error.
pub trait ReadAsRef {
    /// Reads the error and its sources. Keeps the text if `text`.
    fn read(&self, text: bool) -> BodyError;
}

/// For texts. They have no sources.
pub trait ReadDisplay {
    /// Keeps the text if `text`.
    fn read(&self, text: bool) -> BodyError;
}

/// For every other type. It has no sources and no text.
pub trait ReadNothing {
    /// Reads nothing.
    fn read(&self, text: bool) -> BodyError;
}

impl<E: StdError + 'static> ReadError for &&&Unread<'_, E> {
    fn read(&self, text: bool) -> BodyError {
        BodyError::read(self.0, text)
    }
}

impl<E: AsRef<dyn StdError + Send + Sync + 'static>> ReadAsRef for &&Unread<'_, E> {
    fn read(&self, text: bool) -> BodyError {
        BodyError::read(self.0.as_ref(), text)
    }
}

impl<E: Display> ReadDisplay for &Unread<'_, E> {
    fn read(&self, text: bool) -> BodyError {
        BodyError::text(text.then(|| self.0.to_string()))
    }
}

impl<E> ReadNothing for Unread<'_, E> {
    fn read(&self, _text: bool) -> BodyError {
        BodyError::default()
    }
}

/// Checks the policy of a function with `retry_if`: a budget must pay for it.
#[must_use]
pub const fn with_retry_if(policy: Policy) -> Policy {
    assert!(policy.deadlock_retries() > 0, "`retry_if` never takes effect: it uses `deadlock_retries`, which is 0");
    policy
}

/// Calls `retry_if` of the attribute. The bound tells a closure the type of its argument.
pub fn retry_if<E>(error: &E, retry_if: impl FnOnce(&E) -> bool) -> bool {
    retry_if(error)
}

/// Reads the body's error before it moves on. A macro, because it must know the error's type.
#[doc(hidden)]
#[macro_export]
macro_rules! __body_error {
    ($tx:expr, $result:expr $(, $retry_if:expr)?) => {
        match $result {
            ::core::result::Result::Ok(_) => ::core::default::Default::default(),
            ::core::result::Result::Err(error) => {
                #[allow(unused_imports)]
                use $crate::__private::{ReadAsRef as _, ReadDisplay as _, ReadError as _, ReadNothing as _};
                let read = (&&&&$crate::__private::Unread(error)).read($tx.is_after_unknown());
                let retry_if = false $(|| $crate::__private::retry_if(error, $retry_if))?;
                read.with_retry_if(retry_if)
            }
        }
    };
}
