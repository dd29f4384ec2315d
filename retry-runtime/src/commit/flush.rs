//! Early release of locks: a commit that does not wait for its flush, and a flush of its own after it.
//!
//! With `synchronous_commit = off`, COMMIT releases the locks before the log is flushed. The message after it commits a
//! record of its own, with the session's `synchronous_commit`. Its reply arrives once the log is flushed up to that record,
//! and the synchronous standbys, if there are any, have it. The transaction's own records come before it.

/// What BEGIN's message adds.
pub(crate) const RELEASE_EARLY: &str = "; SET LOCAL synchronous_commit = off";

/// Fails if the server cannot flush as [`FLUSH`] does. Writes a record that needs no flush, and returns no row.
pub(crate) const CHECK: &str = "; SELECT WHERE CASE WHEN pg_catalog.pg_is_in_recovery() THEN false \
     ELSE pg_catalog.pg_logical_emit_message(false, 'transactional', '') IS NULL END";

/// Waits until everything that was committed before it is durable.
pub(crate) const FLUSH: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'transactional', '')";

/// The same for a transaction that only reads, perhaps on a standby. A standby shows nothing that is not durable: it replays
/// what the primary has flushed.
pub(crate) const FLUSH_AFTER_READ: &str = "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
     THEN pg_catalog.pg_logical_emit_message(true, 'transactional', '') END";
