//! Tokio's mutex. The scheduler may choose another task before it is taken, once it is taken, and before and after it is
//! released.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::switch;

#[derive(Debug, Default)]
pub(crate) struct Queue<T>(Arc<Mutex<T>>);

#[derive(Debug)]
pub(crate) struct Head<T>(Option<OwnedMutexGuard<T>>);

impl<T> Queue<T> {
    pub(crate) async fn lock_owned(self: Arc<Self>) -> Head<T> {
        switch();
        let head = Head(Some(self.0.clone().lock_owned().await));
        switch();
        head
    }
}

impl<T> Drop for Head<T> {
    fn drop(&mut self) {
        switch();
        self.0 = None;
        switch();
    }
}
