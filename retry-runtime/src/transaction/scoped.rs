//! A thread-local value that is set during a poll.

use std::cell::Cell;
use std::thread::LocalKey;

/// Sets the value back when dropped, also if the poll panics.
pub(crate) struct Scoped<T: Copy + 'static> {
    key: &'static LocalKey<Cell<T>>,
    before: T,
}

impl<T: Copy + 'static> Scoped<T> {
    pub(crate) fn set(key: &'static LocalKey<Cell<T>>, value: T) -> Self {
        Self { key, before: key.replace(value) }
    }
}

impl<T: Copy + 'static> Drop for Scoped<T> {
    fn drop(&mut self) {
        self.key.set(self.before);
    }
}
