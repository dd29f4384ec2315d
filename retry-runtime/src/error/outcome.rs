//! The outcome of a transaction.

use std::fmt;

/// What became of a transaction.
///
/// There is no fourth outcome, so this enum can be matched exhaustively.
///
/// ```
/// use retry_runtime::CommitOutcome;
///
/// assert_eq!(CommitOutcome::RolledBack.to_string(), "rolled back");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommitOutcome {
    /// It is committed.
    Committed,
    /// It is rolled back, and can no longer be committed.
    RolledBack,
    /// The outcome is not known. In reply to [`Identity::resolve`](crate::Identity::resolve): this server cannot tell. It
    /// is another server or a standby. Or the transaction seems to be committed, but the server has crashed, failed over or
    /// reset its statistics since, so the id may be that of another transaction.
    Unknown,
}

impl CommitOutcome {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled back",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for CommitOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
