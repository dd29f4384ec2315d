//! What the expansion of `#[transactional]` names. Not part of the public interface: it changes with any release.

use std::error::Error as StdError;
use std::fmt::Display;
use std::ops::ControlFlow;

pub use crate::__seen as seen;
use crate::error::Error;
pub use crate::policy::{Begin, Damping, Isolation, Jitter, Policy, UnknownCommit};
pub use crate::queue::{Key, QueueKey};
use crate::run::Refused;
pub use crate::run::{Run, Site};
use crate::scope::{Body, Scope};
use crate::settle::Ended;
pub use crate::settle::Seen;
pub use crate::source::Source;
use crate::transaction::Transaction;

/// What the body can take its transaction as.
#[diagnostic::on_unimplemented(
    message = "the first parameter is the transaction; write `tx: &mut retry_runtime::Transaction<'_>`",
    label = "not a `retry_runtime::Transaction`"
)]
pub trait Lend<'t, 'a> {
    /// The attempt's transaction, for as long as the body runs.
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

/// Lends the transaction as what the function declares, and as nothing that it merely dereferences to.
pub fn lend<'t, 'a, T: Lend<'t, 'a>>(tx: &'t mut Transaction<'a>) -> T {
    T::lend(tx)
}

/// What the body returns: a `Result`, under whatever alias.
#[diagnostic::on_unimplemented(
    message = "`#[transactional]` needs a function that returns a `Result`, not `{Self}`",
    label = "not a `Result`"
)]
pub trait Outcome {
    /// What it holds if the body succeeds.
    type Ok;
    /// What it holds otherwise.
    type Err;

    /// The `Result`.
    fn into_result(self) -> Result<Self::Ok, Self::Err>;

    /// And back.
    fn from_result(result: Result<Self::Ok, Self::Err>) -> Self;
}

#[diagnostic::do_not_recommend]
impl<T, E> Outcome for Result<T, E> {
    type Ok = T;
    type Err = E;

    fn into_result(self) -> Self {
        self
    }

    fn from_result(result: Self) -> Self {
        result
    }
}

/// What the function's error has to be made from.
#[diagnostic::on_unimplemented(
    message = "the function's error `{Self}` cannot be made from `retry_runtime::Error`",
    label = "needs `From<retry_runtime::Error>`",
    note = "with thiserror, add a variant: `#[error(transparent)] Transaction(#[from] retry_runtime::Error)`",
    note = "or return `retry_runtime::Error` itself, `anyhow::Error`, or `Box<dyn std::error::Error + Send + Sync>`",
    note = "a type parameter needs the bound `From<retry_runtime::Error>`"
)]
pub trait FromError {
    /// Made from the runtime's error.
    fn from_error(error: Error) -> Self;
}

#[diagnostic::do_not_recommend]
impl<E: From<Error>> FromError for E {
    fn from_error(error: Error) -> Self {
        Self::from(error)
    }
}

/// For functions whose error is a type parameter: rustc proposes no bound of ours then, but names the one to write.
impl Run<'_> {
    /// [`Run::next`], with another bound.
    pub fn next_from<T, E: From<Error>>(
        &mut self,
        attempt: Result<Ended<T, E>, Refused>,
    ) -> impl Future<Output = ControlFlow<Result<T, E>>> {
        self.next(attempt)
    }
}

impl<'a> Scope<'a> {
    /// [`Scope::body`], with another bound.
    #[must_use]
    pub fn body_from<O: Outcome<Err: From<Error>>, F: Future<Output = O>>(self, body: F) -> Body<'a, F> {
        self.body(body)
    }
}

/// The body's error, on its way to the chain of its sources. Which way there is depends on its type; method
/// resolution takes the first of the four traits below that fits.
#[derive(Debug)]
pub struct Chain<'e, E>(pub &'e E);

/// For error types that implement [`std::error::Error`].
pub trait ViaError {
    /// What is seen of the error; as text only if `text`.
    fn seen(&self, text: bool) -> Seen;
}

/// For `anyhow::Error`, `eyre::Report`, `Box<dyn Error + Send + Sync>` and others that refer to an error.
pub trait ViaAsRef {
    /// What is seen of the error; as text only if `text`.
    fn seen(&self, text: bool) -> Seen;
}

/// For texts: no chain.
pub trait ViaDisplay {
    /// What is seen of the error; as text only if `text`.
    fn seen(&self, text: bool) -> Seen;
}

/// For every other type: no chain, and no text.
pub trait ViaNothing {
    /// What is seen of the error: nothing.
    fn seen(&self, text: bool) -> Seen;
}

impl<E: StdError + 'static> ViaError for &&&Chain<'_, E> {
    fn seen(&self, text: bool) -> Seen {
        Seen::of(self.0, text)
    }
}

impl<E: AsRef<dyn StdError + Send + Sync + 'static>> ViaAsRef for &&Chain<'_, E> {
    fn seen(&self, text: bool) -> Seen {
        Seen::of(self.0.as_ref(), text)
    }
}

impl<E: Display> ViaDisplay for &Chain<'_, E> {
    fn seen(&self, text: bool) -> Seen {
        Seen::of_text(text.then(|| self.0.to_string()))
    }
}

impl<E> ViaNothing for Chain<'_, E> {
    fn seen(&self, _text: bool) -> Seen {
        Seen::default()
    }
}

/// The policy of a function with `retry_if`, refused where no budget pays for that.
#[must_use]
pub const fn with_retry_if(policy: Policy) -> Policy {
    assert!(policy.deadlock_retries() > 0, "`retry_if` counts against `deadlock_retries`, which is 0");
    policy
}

/// Calls `retry_if` of the attribute. The bound tells a closure the type of its argument.
pub fn retry_if<E>(error: &E, retry_if: impl FnOnce(&E) -> bool) -> bool {
    retry_if(error)
}

/// Looks at the body's outcome before it moves on. A macro, as the error's type must be known where it stands.
#[doc(hidden)]
#[macro_export]
macro_rules! __seen {
    ($tx:expr, $outcome:expr $(, $retry_if:expr)?) => {
        match $outcome {
            ::core::result::Result::Ok(_) => ::core::default::Default::default(),
            ::core::result::Result::Err(error) => {
                #[allow(unused_imports)]
                use $crate::__private::{ViaAsRef as _, ViaDisplay as _, ViaError as _, ViaNothing as _};
                let seen = (&&&&$crate::__private::Chain(error)).seen($tx.is_after_unknown());
                let retry_if = false $(|| $crate::__private::retry_if(error, $retry_if))?;
                seen.with_retry_if(retry_if)
            }
        }
    };
}
