//! Cancels what an attempt waits for in the server, once its function's calls begin to run one at a time.
//!
//! The attempt may be in a deadlock that the server has not found yet. It then fails, is rolled back, and is retried in turn.

use std::pin::Pin;

use crate::transaction::context::TxContext;

/// Waits until the gate closes, and then cancels the statement that the attempt waits for.
pub(crate) type Interruption<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// `None` if the attempt cannot be interrupted: it runs alone, has no gate, or its session cannot be cancelled.
pub(crate) fn interruption<'a>(context: &TxContext<'a>) -> Option<Interruption<'a>> {
    let session = context.session.filter(|session| context.depth == 0 && context.pooled && session.can_cancel())?;
    let (closing, status) = (context.closing?, context.status);
    Some(Box::pin(async move {
        loop {
            closing.notified().await;
            if status.begin_interrupt() {
                break;
            }
        }
        // If it fails, the server may still act on it, so the session is not used again.
        if let Some(cancel) = session.cancel() {
            if cancel.await.is_ok() {
                status.end_interrupt();
            }
        }
    }))
}
