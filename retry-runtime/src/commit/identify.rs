//! Identifies a transaction, so that its outcome can be looked up if the reply to `COMMIT` does not arrive.

use crate::driver::Row;
use crate::error::{Incarnation, Key, Token, Transaction};

/// Asks for a transaction's identity, in the message of `BEGIN`.
///
/// The id alone is not enough: after a crash the server may reuse transaction ids that it had not flushed. The
/// timeline changes with every failover, and every crash recovery resets the statistics of the background writer. Both
/// together identify the incarnation of the server that assigned the id. (After a promotion, the timeline in the control
/// file is stale. That in the name of the WAL file is not.)
///
/// Every name is qualified, because the `search_path` may put another schema before `pg_catalog`.
pub(crate) const ASK: &str = "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text, \
     pg_catalog.pg_backend_pid()::pg_catalog.text, \
     pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8), \
     (SELECT (extract(epoch FROM stats_reset) OPERATOR(pg_catalog.*) 1000000)::bigint::pg_catalog.text \
      FROM pg_catalog.pg_stat_bgwriter), \
     (SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system())";

/// Asks a server for its incarnation, and whether it is a standby.
pub(crate) const ASK_SERVER: &str = "SELECT pg_catalog.pg_is_in_recovery()::pg_catalog.text, \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL \
     ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END, \
     (SELECT (extract(epoch FROM stats_reset) OPERATOR(pg_catalog.*) 1000000)::bigint::pg_catalog.text \
      FROM pg_catalog.pg_stat_bgwriter), \
     (SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system())";

/// Reads the reply to [`ASK`]. `None`: a field is missing or malformed.
pub(crate) fn read(row: &Row) -> Option<Key> {
    let field = |index| row.get(index).map(str::to_owned);
    let incarnation = Incarnation { timeline: field(2)?, stats_reset: field(3)?, system: field(4)? };
    let (xid, pid) = (row.get(0)?.parse().ok()?, row.get(1)?.parse().ok()?);
    Some(Key::Transaction(Transaction { xid, pid, incarnation }))
}

/// A new token.
pub(crate) fn new_token() -> Token {
    Token(rand::random())
}
