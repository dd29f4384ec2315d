//! How long a call and its attempts take, and how much of it is spent waiting.
//!
//! A call that is not retried and waits for nothing reads the clock twice: at its beginning and at its end.

use std::future::poll_fn;
use std::pin::pin;
use std::time::{Duration, Instant};

use crate::error::Phase;

/// The times of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: Instant,
    /// When the attempt began, or got its connection.
    attempt_began: Instant,
    waiting: Duration,
    wasted: Duration,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let began = Instant::now();
        Self { began, attempt_began: began, waiting: Duration::ZERO, wasted: Duration::ZERO }
    }

    /// Awaits something that an attempt must have before it can begin, such as a connection.
    pub(crate) async fn wait<T, E>(&mut self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut work = pin!(work);
        let mut since = None;
        let result = poll_fn(|cx| {
            let poll = work.as_mut().poll(cx);
            if poll.is_pending() {
                since.get_or_insert_with(Instant::now);
            }
            poll
        })
        .await;
        if let Some(since) = since {
            let time = since.elapsed();
            self.waiting += time;
            if result.is_ok() {
                self.attempt_began += time;
            }
        }
        result
    }

    /// An attempt has ended at `now`. Returns how long it took.
    pub(crate) fn attempt_ended(&mut self, now: Instant, phase: Phase, is_wasted: bool) -> Duration {
        let time = now.saturating_duration_since(self.attempt_began);
        // The time of one that got no connection counts as waiting.
        if is_wasted && !matches!(phase, Phase::Queue | Phase::Pool) {
            self.wasted += time;
        }
        time
    }

    /// The next attempt begins, after a delay that began at `since`.
    pub(crate) fn next_attempt(&mut self, since: Instant) {
        self.attempt_began = Instant::now();
        self.waiting += self.attempt_began - since;
    }

    /// From the call on.
    pub(crate) fn elapsed_at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// In failed attempts.
    pub(crate) fn wasted(&self) -> Duration {
        self.wasted
    }

    /// In queues, for connections, and in delays.
    pub(crate) fn waiting(&self) -> Duration {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::task::{Context, Poll, Waker};

    use super::*;

    async fn yield_once(result: Result<(), ()>) -> Result<(), ()> {
        tokio::task::yield_now().await;
        result
    }

    #[tokio::test]
    async fn what_is_ready_at_once_is_no_wait() {
        let mut clock = Clock::start();
        let before = clock.attempt_began;
        clock.wait(ready(Ok::<_, ()>(()))).await.expect("it is ready");
        assert_eq!((clock.waiting, clock.attempt_began), (Duration::ZERO, before));
        clock.wait(yield_once(Ok(()))).await.expect("it is ready");
        assert!(clock.waiting > Duration::ZERO);
        assert_eq!(clock.attempt_began, before + clock.waiting, "the attempt begins after the wait");
        let mut endless = pin!(clock.wait(pending::<Result<(), ()>>()));
        assert_eq!(endless.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
    }

    #[tokio::test]
    async fn a_failed_wait_is_the_time_of_its_attempt_but_not_wasted() {
        let mut clock = Clock::start();
        clock.wait(yield_once(Err(()))).await.expect_err("it fails");
        let waited = clock.waiting;
        assert!(waited > Duration::ZERO);
        assert!(clock.attempt_ended(Instant::now(), Phase::Pool, true) >= waited);
        assert_eq!(clock.wasted, Duration::ZERO);
        let time = clock.attempt_ended(Instant::now(), Phase::Body, true);
        assert_eq!(clock.wasted, time);
        clock.attempt_ended(Instant::now(), Phase::Body, false);
        assert_eq!(clock.wasted, time);
    }
}
