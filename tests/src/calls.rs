//! Helpers for tests of calls: drop a call after a number of polls, count the bodies that run at the same time.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::poll;

/// Polls a call up to `polls` times, and drops it. Returns whether it completed before.
pub async fn dropped_after<T>(call: impl Future<Output = T>, polls: u32) -> bool {
    let mut call = pin!(call);
    for _ in 0..polls {
        if poll!(call.as_mut()).is_ready() {
            return true;
        }
        // Meanwhile the server replies to what was sent.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    false
}

/// Counts the bodies that run at the same time.
#[derive(Debug, Default)]
pub struct Concurrency {
    now: AtomicU32,
    most: AtomicU32,
}

impl Concurrency {
    /// A body begins.
    pub fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    /// A body ends.
    pub fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    /// The most bodies that have run at the same time.
    pub fn most(&self) -> u32 {
        self.most.load(Ordering::SeqCst)
    }
}
