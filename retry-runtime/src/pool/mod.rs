//! Where connections come from: the traits of pools and sessions, the pools that the features name, and the clean-up
//! of sessions.

#[cfg(feature = "bb8")]
mod bb8;
mod breaker;
mod budget;
mod cancel;
pub(crate) mod clean_up;
#[cfg(feature = "deadpool")]
mod deadpool;
pub(crate) mod protection;
mod reconnect;
mod session;

pub use self::breaker::WithBreaker;
pub use self::budget::WithBudget;
pub use self::cancel::{CancelStream, WithCancel};
pub use self::protection::Protection;
pub use self::reconnect::Reconnect;
pub(crate) use self::session::Connection;
pub use self::session::{BoxFuture, Pool, Session};
