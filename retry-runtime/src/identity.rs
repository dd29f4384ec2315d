//! Which transaction it was: by this, the outcome of a lost `COMMIT` can be found out.

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

/// Asks for a transaction's identity, in the message of `BEGIN`.
///
/// The id alone is not enough: after a crash the server gives ids that it had not flushed to somebody else. The
/// timeline changes with every failover, and the statistics of the background writer are reset by every crash
/// recovery: so both together name the incarnation that gave out the id. (The control file's timeline is stale after a
/// promotion, the WAL file's name is not.)
///
/// Qualified throughout, as the `search_path` may put something else before `pg_catalog`.
pub(crate) const ASK: &str = "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text, \
     pg_catalog.pg_backend_pid()::pg_catalog.text, \
     pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8), \
     (SELECT (extract(epoch FROM stats_reset) OPERATOR(pg_catalog.*) 1000000)::bigint::pg_catalog.text \
      FROM pg_catalog.pg_stat_bgwriter), \
     (SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system())";

/// Asks a server which incarnation it is, and whether it can tell outcomes.
pub(crate) const ASK_SERVER: &str = "SELECT pg_catalog.pg_is_in_recovery()::pg_catalog.text, \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL \
     ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END, \
     (SELECT (extract(epoch FROM stats_reset) OPERATOR(pg_catalog.*) 1000000)::bigint::pg_catalog.text \
      FROM pg_catalog.pg_stat_bgwriter), \
     (SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system())";

/// What identifies a transaction whose outcome is unknown. [`resolve`](crate::resolve()) takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(pub(crate) Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By the server's own id.
    Xact(Xact),
    /// By the token written with the commit.
    Token(Token),
}

/// A transaction's id, and the server that gave it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Xact {
    pub(crate) xid: u64,
    pub(crate) pid: i32,
    pub(crate) incarnation: Incarnation,
}

/// A server between two crashes or failovers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Incarnation {
    pub(crate) timeline: String,
    pub(crate) stats_reset: String,
    pub(crate) system: String,
}

/// A random key in the table `transactional.commits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(u128);

impl Identity {
    /// The transaction's id (the server's `xid8`), with `unknown_commit = "resolve"`.
    #[must_use]
    pub fn xid(&self) -> Option<u64> {
        match &self.0 {
            Kind::Xact(xact) => Some(xact.xid),
            Kind::Token(_) => None,
        }
    }

    /// The key in `transactional.commits` as text of a `uuid`, with `unknown_commit = "token"`.
    #[must_use]
    pub fn token(&self) -> Option<String> {
        match &self.0 {
            Kind::Xact(_) => None,
            Kind::Token(token) => Some(token.to_string()),
        }
    }

    /// Reads the answer to [`ASK`]. `None`: it is not there, or not understood.
    pub(crate) fn read(row: &SimpleQueryRow) -> Option<Self> {
        let field = |index| row.get(index).map(str::to_owned);
        let incarnation = Incarnation { timeline: field(2)?, stats_reset: field(3)?, system: field(4)? };
        let xact = Xact { xid: row.get(0)?.parse().ok()?, pid: row.get(1)?.parse().ok()?, incarnation };
        Some(Self(Kind::Xact(xact)))
    }

    pub(crate) fn new_token() -> (Token, Self) {
        let token = Token(rand::random());
        (token, Self(Kind::Token(token)))
    }
}

/// The row of the last statement that gave one.
pub(crate) fn last_row(messages: &[SimpleQueryMessage]) -> Option<&SimpleQueryRow> {
    messages.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}
