#![doc = include_str!("../../README.md")]

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
mod backoff;
mod classify;
mod decide;
mod error;
mod events;
mod handle;
mod hooks;
mod policy;
mod pools;
mod run;
mod settle;
mod source;
mod state;
mod stream;
mod transaction;

#[cfg(feature = "macros")]
pub use retry_macros::transactional;

pub use crate::classify::{Class, classify};
pub use crate::error::Error;
pub use crate::policy::{Isolation, Jitter, Policy};
pub use crate::source::{BoxFuture, Pool, Session, Source};
pub use crate::stream::Watched;
pub use crate::transaction::Transaction;
