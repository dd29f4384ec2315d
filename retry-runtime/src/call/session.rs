//! Takes a session out of the pool, and ends its use.

use crate::call::outcome::{AttemptOutcome, SessionFate};
use crate::call::retry::RetryCause;
use crate::classify::Failure;
use crate::driver::{self, Client, CommitReply};
use crate::error::{Error, Phase, PoolError};
use crate::events::{AttemptId, Event};
use crate::policy::Policy;
use crate::pool::{Pool, Session, clean_up};
use crate::transaction::deadline::{Deadline, Expired};

/// How many closed sessions one attempt passes over: more than pools commonly hold.
const MAX_CLOSED: usize = 100;

/// Takes a session out of the pool. To skip a closed session does not count as a retry.
pub(crate) async fn take(
    pool: &dyn Pool,
    deadline: Deadline,
    policy: &Policy,
    id: AttemptId,
) -> Result<Box<dyn Session>, AttemptOutcome> {
    let mut closed = 0;
    loop {
        let session = match deadline.bound(pool.get()).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return Err(refused(error, policy)),
            Err(Expired) => return Err(AttemptOutcome::not_begun(Error::deadline(Phase::Pool), None, None)),
        };
        if !session.client().is_closed() || closed == MAX_CLOSED {
            return Ok(session);
        }
        closed += 1;
        id.emit(Event::ConnectionDiscarded, None);
        session.discard();
    }
}

/// The pool has given no session.
pub(super) fn refused(error: PoolError, policy: &Policy) -> AttemptOutcome {
    let error = Error::Pool(error);
    let failure = driver::failure_in(&error);
    let cause = failure.as_ref().and_then(|failure| RetryCause::of(failure, policy));
    AttemptOutcome::not_begun(error, failure, cause)
}

/// Ends the use of a session. `reusable`: no cancel request is on its way to it, which would hit its next statement.
/// `commit`: the reply to COMMIT, if it has not arrived.
pub(crate) fn end(
    session: Box<dyn Session>,
    fate: SessionFate,
    reusable: bool,
    commit: Option<CommitReply>,
    failure: Option<&Failure>,
    id: AttemptId,
) {
    match fate {
        // The pool gets it back.
        SessionFate::Keep | SessionFate::GiveBack if reusable => drop(session),
        SessionFate::CleanUp => clean_up::hand_over(session, commit, reusable, id),
        _ => {
            id.emit(Event::ConnectionDiscarded, failure);
            session.discard();
        }
    }
}

/// Whether the settings of the session make it read-only, and not the server.
pub(crate) async fn is_read_only_by_setting(client: &Client) -> bool {
    let row = driver::ask(client, "SHOW default_transaction_read_only").await;
    row.is_ok_and(|row| row.is_some_and(|row| row.get(0) == Some("on")))
}
