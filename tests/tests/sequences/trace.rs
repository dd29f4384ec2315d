//! What happens in a call, in order.

use std::sync::{Arc, Mutex, PoisonError};

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The body begins.
    Attempt(u32),
    /// A step was awaited: whether it succeeded.
    Replied(i32, bool),
    /// A nested call was dropped, or the begin of a savepoint.
    Dropped(i32, Drop),
    /// A hook has run.
    Hook(i32),
}

/// What became of a nested call or savepoint that could be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drop {
    /// It ended before.
    Ended,
    /// The transaction goes on without it.
    Undone,
    /// It was dropped while its savepoint was being released: if it is too late for a rollback to it, the transaction is
    /// aborted, and the outermost call is retried.
    Aborted,
}

/// What has happened so far. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace(Arc<Mutex<Vec<Entry>>>);

impl Trace {
    pub(crate) fn add(&self, entry: Entry) {
        self.with(|entries| entries.push(entry));
    }

    pub(crate) fn len(&self) -> usize {
        self.with(|entries| entries.len())
    }

    /// A nested call was dropped: forgets what it has done, which depends on how far it came.
    pub(crate) fn dropped(&self, since: usize, entry: Entry) {
        self.with(|entries| {
            entries.truncate(since);
            entries.push(entry);
        });
    }

    pub(crate) fn take(&self) -> Vec<Entry> {
        self.with(std::mem::take)
    }

    fn with<T>(&self, with: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
