//! Keeps panics of listeners away from calls.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls code of a listener. If it panics, the panic hook reports that, and the call goes on: its transaction may be
/// committed already.
pub(crate) fn isolated<T>(listener: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(listener)).ok()
}
