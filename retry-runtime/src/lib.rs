#![doc = include_str!("../../README.md")]

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
mod answer;
mod backoff;
mod begin;
mod cancel;
mod classify;
mod clean_up;
mod deadline;
mod decide;
mod error;
mod events;
mod handle;
mod hooks;
mod identity;
mod policy;
mod pools;
mod reconnect;
mod resolve;
mod run;
mod settle;
mod source;
mod state;
mod stream;
mod transaction;

#[cfg(feature = "macros")]
pub use retry_macros::transactional;

pub use crate::cancel::{CancelStream, WithCancel};
pub use crate::classify::{Class, classify};
pub use crate::error::{Error, Phase};
pub use crate::identity::Identity;
pub use crate::policy::{Isolation, Jitter, Policy, UnknownCommit};
pub use crate::reconnect::Reconnect;
pub use crate::resolve::{CommitOutcome, resolve};
pub use crate::source::{BoxFuture, Pool, Session, Source};
pub use crate::stream::Watched;
pub use crate::transaction::Transaction;
