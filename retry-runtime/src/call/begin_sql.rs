//! The message that begins a transaction.

use std::fmt::Write;

use crate::commit::{flush, identify};
use crate::policy::Policy;

/// One message, whatever is set: no option costs a round trip.
///
/// `NOT DEFERRABLE` is the server's default. The server refuses it (25001) inside a transaction that has already run a
/// statement. So BEGIN fails if other code left such a transaction open.
pub(crate) fn begin_sql(policy: &Policy) -> String {
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
    if policy.asks_identity() {
        sql.push_str("; ");
        sql.push_str(identify::ASK);
    }
    sql
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::Isolation;

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
}
