//! Drops a call while it runs.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// Polls a future up to `polls` times, and drops it. Returns `None` if it was not ready by then.
///
/// A call is dropped when the client of a web server disconnects, and when `tokio::time::timeout` or `tokio::select!` does not
/// wait for it any longer. A call that is dropped before it sends `COMMIT` is rolled back:
///
/// ```
/// use retry_runtime::testing::drop_after;
/// # use retry_runtime::{Error, Pool, Transaction, transactional};
/// # #[transactional]
/// # async fn place_order(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
/// #     Ok(())
/// # }
///
/// async fn an_order_is_rolled_back(pool: &impl Pool) {
///     assert!(drop_after(2, place_order(pool, 1)).await.is_none());
///     // No order is there.
/// }
/// ```
///
/// # Panics
/// If `polls` is 0.
pub async fn drop_after<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    assert!(polls > 0, "a future that is never polled does nothing");
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
