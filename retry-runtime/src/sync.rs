//! Locks, atomics and time of the code that calls run at the same time. For `scripts/schedules` they are those of the
//! model checker.

#[cfg(all(test, shuttle))]
pub(crate) mod schedules;

#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

#[cfg(not(all(test, shuttle)))]
pub(crate) use tokio::{
    sync::{Mutex as Queue, OwnedMutexGuard as Head},
    time::{Instant, Sleep, sleep_until},
};

#[cfg(all(test, shuttle))]
pub(crate) use self::schedules::{
    queue::{Head, Queue},
    time::{Instant, Sleep, sleep_until},
};
#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
