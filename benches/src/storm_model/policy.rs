//! What one process of the model remembers, and whether it may make a call or a retry.

use std::collections::VecDeque;
use std::time::Duration;

/// Results and retries older than this no longer count.
const WINDOW: Duration = Duration::from_secs(10);

/// Limits the retries of a process.
#[derive(Clone, Debug)]
pub(crate) enum Retries {
    Never,
    Always,
    /// A retry takes a token, a success adds a part of one.
    Tokens {
        tokens: f64,
        cap: f64,
        per_success: f64,
    },
    /// As gRPC: every failure takes a token, and a retry needs more than half of `cap`.
    HalfFull {
        tokens: f64,
        cap: f64,
        per_success: f64,
    },
    /// As Finagle and tower: a share of the calls in the window, and a few per second whatever happens.
    Share {
        calls: VecDeque<Duration>,
        retries: VecDeque<Duration>,
        of_calls: f64,
        per_second: f64,
    },
}

impl Retries {
    pub(crate) fn aws() -> Self {
        Self::Tokens { tokens: 100.0, cap: 100.0, per_success: 0.2 }
    }

    pub(crate) fn grpc() -> Self {
        Self::HalfFull { tokens: 10.0, cap: 10.0, per_success: 0.1 }
    }

    pub(crate) fn finagle() -> Self {
        Self::Share { calls: VecDeque::new(), retries: VecDeque::new(), of_calls: 0.2, per_second: 10.0 }
    }

    /// `WithBudget`.
    pub(crate) fn budget() -> Self {
        Self::Tokens { tokens: 1.0, cap: 3.0, per_success: 0.1 }
    }

    fn called(&mut self, now: Duration) {
        if let Self::Share { calls, .. } = self {
            calls.push_back(now);
        }
    }

    fn ended(&mut self, success: bool) {
        match self {
            Self::Tokens { tokens, cap, per_success } if success => *tokens = cap.min(*tokens + *per_success),
            Self::HalfFull { tokens, cap, per_success } => {
                *tokens = if success { cap.min(*tokens + *per_success) } else { (*tokens - 1.0).max(0.0) };
            }
            _ => {}
        }
    }

    fn admits(&mut self, now: Duration) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Tokens { tokens, .. } => {
                let has_one = *tokens >= 1.0;
                *tokens -= if has_one { 1.0 } else { 0.0 };
                has_one
            }
            Self::HalfFull { tokens, cap, .. } => *tokens > *cap / 2.0,
            Self::Share { calls, retries, of_calls, per_second } => {
                forget(calls, now, |time| *time);
                forget(retries, now, |time| *time);
                let limit = calls.len() as f64 * *of_calls + *per_second * WINDOW.as_secs_f64();
                let is_below = (retries.len() as f64) < limit;
                if is_below {
                    retries.push_back(now);
                }
                is_below
            }
        }
    }
}

/// A circuit breaker with the rules of `WithBreaker`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breaker {
    /// When attempts ended, and whether they succeeded.
    results: VecDeque<(Duration, bool)>,
    /// If the circuit is open: until when. During the trial: until another call may be the trial.
    open_until: Option<Duration>,
}

impl Breaker {
    const MIN_RESULTS: usize = 5;
    const OPEN_FOR: Duration = Duration::from_secs(5);

    fn refuses(&self, now: Duration) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    fn admits(&mut self, now: Duration) -> bool {
        let admits = !self.refuses(now);
        if admits && self.open_until.is_some() {
            self.open_until = Some(now + Self::OPEN_FOR);
        }
        admits
    }

    /// `began`: when the attempt began. The results of attempts that began before the circuit opened do not count.
    fn ended(&mut self, now: Duration, began: Duration, success: bool) {
        match self.open_until {
            Some(until) if began + Self::OPEN_FOR < until => {}
            Some(_) if success => *self = Self::default(),
            Some(_) => self.open_until = Some(now + Self::OPEN_FOR),
            None => {
                self.results.push_back((now, success));
                forget(&mut self.results, now, |(time, _)| *time);
                let failures = self.results.iter().filter(|(_, success)| !success).count();
                if !success && self.results.len() >= Self::MIN_RESULTS && failures * 2 >= self.results.len() {
                    self.open_until = Some(now + Self::OPEN_FOR);
                }
            }
        }
    }
}

/// Drops what is older than the window.
fn forget<T>(times: &mut VecDeque<T>, now: Duration, time: impl Fn(&T) -> Duration) {
    while times.front().is_some_and(|front| time(front) + WINDOW < now) {
        times.pop_front();
    }
}

/// A process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) retries: Retries,
    pub(crate) breaker: Option<Breaker>,
}

impl Process {
    /// Whether a new call may be attempted.
    pub(crate) fn admits_call(&mut self, now: Duration) -> bool {
        self.retries.called(now);
        self.admits_attempt(now)
    }

    /// Whether the breaker admits an attempt.
    pub(crate) fn admits_attempt(&mut self, now: Duration) -> bool {
        self.breaker.as_mut().is_none_or(|breaker| breaker.admits(now))
    }

    /// Whether a failed attempt may be followed by another.
    pub(crate) fn admits_retry(&mut self, now: Duration) -> bool {
        !self.breaker.as_ref().is_some_and(|breaker| breaker.refuses(now)) && self.retries.admits(now)
    }

    /// An attempt has ended.
    pub(crate) fn ended(&mut self, now: Duration, began: Duration, success: bool) {
        self.retries.ended(success);
        if let Some(breaker) = &mut self.breaker {
            breaker.ended(now, began, success);
        }
    }
}
