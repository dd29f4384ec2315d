//! What became of a commit: how a transaction is identified, and how its outcome is looked up.

pub(crate) mod flush;
pub(crate) mod identify;
mod install;
pub(crate) mod resolve;

pub(crate) use self::install::QUEUES;
pub use self::install::{INSTALL_QUEUES_SQL, INSTALL_SQL, install, install_queues};
