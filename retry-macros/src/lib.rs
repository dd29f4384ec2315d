//! The attribute `#[transactional]`, re-exported and documented by the crate `retry-runtime`.
//!
//! This crate reads the attribute and writes the retry loop. It holds no policy: every default, every
//! classification and every statement sent to the server is the runtime's. Only for the documentation that it adds to
//! public functions does it know some defaults.

mod args;
mod backoff;
mod document;
mod error;
mod expand;
mod item;
mod names;
#[cfg(test)]
mod robustness;
#[cfg(test)]
mod snapshots;
mod validate;
mod value;

use proc_macro::TokenStream;

/// Runs an async function as a retried PostgreSQL transaction.
#[proc_macro_attribute]
pub fn transactional(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(args.into(), item.into()).into()
}
