//! The message that begins a transaction.

use std::borrow::Cow;
use std::fmt::Write;

use crate::call::server_timeout::ServerTimeout;
use crate::commit::{flush, identify};
use crate::policy::Policy;

/// What begins every transaction of a function.
#[derive(Debug)]
pub(crate) struct BeginSql {
    message: String,
    /// The length of BEGIN with its settings. A question that takes the transaction's snapshot may follow.
    settings: usize,
}

impl BeginSql {
    pub(crate) fn new(policy: &Policy) -> Self {
        let mut message = begin_sql(policy);
        let settings = message.len();
        if policy.asks_identity() {
            message.push_str("; ");
            message.push_str(identify::ASK);
        }
        Self { message, settings }
    }

    /// The message of one attempt. The locks come after every timeout, so that each bounds the wait for them, and before
    /// the snapshot, so that the transaction sees what it has waited for.
    /// `checks`: it also checks that the server can flush.
    pub(crate) fn with(&self, timeout: ServerTimeout, locks: &str, checks: bool) -> Cow<'_, str> {
        if timeout == ServerTimeout::Keep && locks.is_empty() && !checks {
            return Cow::Borrowed(&self.message);
        }
        let (settings, question) = self.message.split_at(self.settings);
        let mut message = String::with_capacity(self.message.len() + locks.len() + 64);
        message.push_str(settings);
        timeout.add_to(&mut message);
        message.push_str(locks);
        message.push_str(question);
        message.push_str(if checks { flush::CHECK } else { "" });
        Cow::Owned(message)
    }
}

/// One message, whatever is set: no option costs a round trip.
///
/// `NOT DEFERRABLE` is the server's default. The server refuses it (25001) inside a transaction that has already run a
/// statement. So BEGIN fails if other code left such a transaction open.
fn begin_sql(policy: &Policy) -> String {
    let mut sql = String::from("BEGIN");
    if let Some(isolation) = policy.isolation {
        let _ = write!(sql, " ISOLATION LEVEL {}", isolation.as_sql());
    }
    if policy.read_only {
        sql.push_str(" READ ONLY");
    }
    sql.push_str(if policy.deferrable { " DEFERRABLE" } else { " NOT DEFERRABLE" });
    for (setting, timeout) in [
        ("statement_timeout", policy.statement_timeout),
        ("lock_timeout", policy.lock_timeout),
        ("idle_in_transaction_session_timeout", policy.idle_timeout),
    ] {
        if let Some(timeout) = timeout {
            // Rounded up: zero would turn the timeout off.
            let _ = write!(sql, "; SET LOCAL {setting} = {}", timeout.as_micros().div_ceil(1_000));
        }
    }
    if policy.early_release {
        sql.push_str(flush::RELEASE_EARLY);
    }
    sql
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::{Isolation, UnknownCommit};

    #[test]
    fn every_setting_travels_in_one_message() {
        assert_eq!(begin_sql(&Policy::DEFAULT), "BEGIN NOT DEFERRABLE");
        let policy = Policy {
            isolation: Some(Isolation::Serializable),
            read_only: true,
            deferrable: true,
            statement_timeout: Some(Duration::from_secs(2)),
            lock_timeout: Some(Duration::from_micros(1_500)),
            idle_timeout: Some(Duration::from_secs(60)),
            ..Policy::DEFAULT
        };
        assert_eq!(
            begin_sql(&policy),
            "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE; SET LOCAL statement_timeout = 2000; \
             SET LOCAL lock_timeout = 2; SET LOCAL idle_in_transaction_session_timeout = 60000"
        );
    }

    #[test]
    fn locks_come_after_timeouts_and_before_the_snapshot() {
        let sql = BeginSql::new(&Policy { unknown_commit: UnknownCommit::Resolve, ..Policy::DEFAULT });
        let (begin, set) = ("BEGIN NOT DEFERRABLE", "; SET LOCAL statement_timeout = 1000");
        let ask = format!("; {}", identify::ASK);
        let timeout = ServerTimeout::Set(Duration::from_secs(1));
        assert_eq!(sql.with(timeout, "; LOCK TABLE t", false), format!("{begin}{set}; LOCK TABLE t{ask}"));
        assert_eq!(sql.with(timeout, "", false), format!("{begin}{set}{ask}"));
        assert_eq!(sql.with(ServerTimeout::Keep, "; LOCK TABLE t", false), format!("{begin}; LOCK TABLE t{ask}"));
        assert_eq!(sql.with(ServerTimeout::Keep, "", false), format!("{begin}{ask}"));
    }
}
