//! The deadline on the server, as `statement_timeout`: a statement whose caller is gone ends by itself.
//!
//! `SET LOCAL` travels in the message of BEGIN. It must not lengthen the session's own `statement_timeout`, which only the
//! server knows. So the first call of a function on a pool asks for it, in the same message, and others use the reply.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::driver::{Client, Reply, Row};
use crate::policy::Policy;
use crate::transaction::deadline::Deadline;

/// How long the reply of a session is used for other sessions of its pool.
const FRESH: Duration = Duration::from_secs(60);

/// What is known of the sessions of a pool.
#[derive(Debug, Default)]
pub(crate) struct SessionTimeout(Mutex<Known>);

#[derive(Clone, Copy, Debug, Default)]
enum Known {
    #[default]
    Nothing,
    /// Their own `statement_timeout` at this time. Zero: none.
    Own(Duration, Instant),
    /// The server refuses the statements.
    Unsupported,
}

impl SessionTimeout {
    fn get(&self) -> Known {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, known: Known) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

/// What BEGIN's message says of the timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerTimeout {
    /// Nothing.
    Keep,
    /// The time that is left.
    Set(Duration),
    /// The time that is left, and the question for the session's own timeout.
    Ask(Duration),
}

impl ServerTimeout {
    /// `session`: what is known. `None` for a client of the caller's, which may differ from all others.
    pub(crate) fn new(deadline: Deadline, policy: &Policy, session: Option<&SessionTimeout>) -> Self {
        let Some(left) = deadline.left().filter(|left| millis(*left) <= i32::MAX as u128) else { return Self::Keep };
        let shorter_than = |own: Duration| if own.is_zero() || left < own { Self::Set(left) } else { Self::Keep };
        match (policy.statement_timeout, session.map(SessionTimeout::get)) {
            (Some(own), _) => shorter_than(own),
            (None, Some(Known::Own(own, since))) if since.elapsed() < FRESH => shorter_than(own),
            (None, Some(Known::Unsupported)) => Self::Keep,
            (None, _) => Self::Ask(left),
        }
    }

    /// Appends what BEGIN's message says of it.
    pub(crate) fn add_to(self, message: &mut String) {
        if self.asks() {
            message.push_str("; SHOW statement_timeout");
        }
        if let Self::Set(left) | Self::Ask(left) = self {
            let _ = write!(message, "; SET LOCAL statement_timeout = {}", millis(left));
        }
    }

    pub(crate) fn asks(self) -> bool {
        matches!(self, Self::Ask(_))
    }

    /// Reads the reply to the question. If the session's own timeout is shorter than the time that is left, restores it:
    /// its message leaves before the body's first statement.
    pub(crate) fn learn(self, row: Option<&Row>, client: &Client, session: Option<&SessionTimeout>) {
        let (Self::Ask(left), Some(text)) = (self, row.and_then(|row| row.get(0))) else { return };
        let own = read(text);
        if let (Some(own), Some(session)) = (own, session) {
            session.set(Known::Own(own, Instant::now()));
        }
        let is_shorter = own.is_none_or(|own| !own.is_zero() && own < left);
        if is_shorter && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            // It cannot fail, unless the connection has closed: then the next statement says so.
            let _ = Reply::send(client, &format!("SET LOCAL statement_timeout = '{text}'"));
        }
    }

    /// The server has refused the question, or `SET LOCAL`.
    pub(crate) fn refused(session: Option<&SessionTimeout>) {
        if let Some(session) = session {
            session.set(Known::Unsupported);
        }
    }
}

/// Rounded up: zero would turn the timeout off, and it must not end a statement before the deadline.
fn millis(time: Duration) -> u128 {
    time.as_micros().div_ceil(1_000).max(1)
}

/// Reads a duration as the server shows it: `0`, or a number with a unit.
fn read(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "" if number == 0 => Duration::ZERO,
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "min" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3_600)?),
        "d" => Duration::from_secs(number.checked_mul(86_400)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn durations_are_read_as_the_server_shows_them() {
        let texts = ["0", "250ms", "90s", "2min", "3h", "24d", "", "5", "5 s", "-1", "1y", "99999999999999999999d"];
        let expected = [
            Some(Duration::ZERO),
            Some(Duration::from_millis(250)),
            Some(secs(90)),
            Some(secs(120)),
            Some(secs(10_800)),
            Some(secs(2_073_600)),
        ];
        assert_eq!(texts.map(read)[..6], expected);
        assert_eq!(texts.map(read)[6..], [None; 6]);
    }

    #[test]
    fn the_message_says_what_is_left_in_milliseconds() {
        let added = |timeout: ServerTimeout| {
            let mut message = String::new();
            timeout.add_to(&mut message);
            message
        };
        assert_eq!(added(ServerTimeout::Keep), "");
        assert_eq!(added(ServerTimeout::Set(Duration::from_micros(1_001))), "; SET LOCAL statement_timeout = 2");
        let ask = "; SHOW statement_timeout; SET LOCAL statement_timeout = 1";
        assert_eq!(added(ServerTimeout::Ask(Duration::ZERO)), ask);
    }
}
