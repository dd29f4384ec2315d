//! Virtual time. It passes only if a test says so.

use std::ops::{Add, Sub};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::switch;

/// Each schedule begins at [`START`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

/// Late enough for tests to subtract from it.
const START: Duration = Duration::from_secs(1_000_000);

shuttle::lazy_static! {
    static ref CLOCK: Mutex<Clock> = Mutex::new(Clock { passed: Duration::ZERO, sleeps: Vec::new() });
}

struct Clock {
    passed: Duration,
    sleeps: Vec<Waker>,
}

fn with_clock<T>(with: impl FnOnce(&mut Clock) -> T) -> T {
    switch();
    with(&mut CLOCK.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Makes time pass.
pub(crate) fn pass(time: Duration) {
    let sleeps = with_clock(|clock| {
        clock.passed += time;
        std::mem::take(&mut clock.sleeps)
    });
    sleeps.into_iter().for_each(Waker::wake);
}

impl Instant {
    pub(crate) fn now() -> Self {
        Self(START + with_clock(|clock| clock.passed))
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now() - self
    }

    pub(crate) fn checked_add(self, time: Duration) -> Option<Self> {
        self.0.checked_add(time).map(Self)
    }

    pub(crate) fn checked_sub(self, time: Duration) -> Option<Self> {
        self.0.checked_sub(time).map(Self)
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

#[derive(Debug)]
pub(crate) struct Sleep(Instant);

pub(crate) fn sleep_until(deadline: Instant) -> Sleep {
    Sleep(deadline)
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        with_clock(|clock| {
            if START + clock.passed >= self.0.0 {
                return Poll::Ready(());
            }
            clock.sleeps.push(cx.waker().clone());
            Poll::Pending
        })
    }
}
