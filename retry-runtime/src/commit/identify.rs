//! Identifies a transaction, so that its outcome can be looked up if the reply to `COMMIT` does not arrive.

use crate::driver::Row;
use crate::error::{Incarnation, Key, Token, Transaction};

/// When the statistics of the background writer were last reset, in microseconds since 1970. The view `pg_stat_bgwriter`
/// shows the same time, and costs as much as the rest of the question.
macro_rules! stats_reset {
    () => {
        "(pg_catalog.date_part('epoch', pg_catalog.pg_stat_get_bgwriter_stat_reset_time()) \
         OPERATOR(pg_catalog.*) 1000000)::bigint"
    };
}

macro_rules! system {
    () => {
        "(SELECT system_identifier FROM pg_catalog.pg_control_system())"
    };
}

/// Asks for a transaction's identity, in the message of `BEGIN`.
///
/// The id alone is not enough: after a crash the server may reuse transaction ids that it had not flushed. The
/// timeline changes with every failover, and every crash recovery resets the statistics of the background writer. Both
/// together identify the incarnation of the server that assigned the id. (After a promotion, the timeline in the control
/// file is stale. That in the name of the WAL file is not.) The system identifier tells another cluster from an earlier
/// incarnation of this one.
///
/// All of it is asked each time: a pooler may put another server behind a connection.
///
/// Every name is qualified, because the `search_path` may put another schema before `pg_catalog`.
pub(crate) const ASK: &str = concat!(
    "SELECT pg_catalog.pg_current_xact_id(), pg_catalog.pg_backend_pid(), \
     pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), ",
    stats_reset!(),
    ", ",
    system!()
);

/// Asks a server for its incarnation, and whether it is a standby.
pub(crate) const ASK_SERVER: &str = concat!(
    "SELECT pg_catalog.pg_is_in_recovery()::pg_catalog.text, CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL \
     ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END, ",
    stats_reset!(),
    ", ",
    system!()
);

/// Reads an incarnation, whose three fields begin at `first`. `None`: one is missing.
pub(crate) fn incarnation(row: &Row, first: usize) -> Option<Incarnation> {
    let field = |index| row.get(first + index);
    let [timeline, stats_reset, system] = [field(0)?.get(..8)?, field(1)?, field(2)?].map(str::to_owned);
    Some(Incarnation { timeline, stats_reset, system })
}

/// Reads the reply to [`ASK`]. `None`: a field is missing or malformed.
pub(crate) fn read(row: &Row) -> Option<Key> {
    let (xid, pid) = (row.get(0)?.parse().ok()?, row.get(1)?.parse().ok()?);
    let incarnation = incarnation(row, 2)?;
    Some(Key::Transaction(Transaction { xid, pid, incarnation }))
}

/// A new token.
pub(crate) fn new_token() -> Token {
    Token(rand::random())
}
