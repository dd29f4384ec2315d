//! Checks that a function survives every fault.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::pool::Pool;
use crate::testing::attempt::Observed;
use crate::testing::dropped::drop_after;
use crate::testing::fault::{Fault, Place};
use crate::testing::plan::Plan;
use crate::testing::scope::{observe, without_faults};
use crate::testing::tables::{Contents, Tables};

/// More statements or polls than this are not tried.
const MAX_PLACES: u32 = 200;

/// Panics unless `call` has the same effects with each fault as without one.
///
/// The call runs twice without a fault. Then it runs with each [`Fault`], before `BEGIN`, at each statement and before
/// `COMMIT`, and is dropped after each of its polls. [`Fault::Slow`] is not tried: it makes no attempt fail.
///
/// Before each run, the rows of `tables` are restored. After it, they are compared, and so are the value that the call
/// returned and the number of hooks that its commits ran. A call that was dropped, or that returned an error although no
/// conflict was the fault, must have done all or nothing.
///
/// Return what else the call does, such as the number of mails:
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// use retry_runtime::testing::assert_retry_safe;
/// # use retry_runtime::{Error, Pool, Transaction, transactional};
/// # #[transactional]
/// # async fn place_order(tx: &mut Transaction<'_>, id: i64, mails: &AtomicU32) -> Result<(), Error> {
/// #     Ok(())
/// # }
///
/// async fn orders_are_safe(pool: &impl Pool) {
///     assert_retry_safe(pool, &["customers", "orders"], || async {
///         let mails = AtomicU32::new(0);
///         place_order(pool, 1, &mails).await?;
///         Ok::<_, Error>(mails.into_inner())
///     })
///     .await;
/// }
/// ```
///
/// The rows of a table are removed in the reverse order of `tables`, and restored in their order: write a table that others
/// refer to first. Triggers run. Columns that differ between the two runs without a fault are not compared, such as times and
/// numbers of sequences. Other tests must not use the tables at the same time.
///
/// # Panics
/// With a sentence that names the fault and the difference. Also if the call returns an error without a fault, or if the
/// tables cannot be read and written.
pub async fn assert_retry_safe<T, E, F>(pool: &impl Pool, tables: &[&str], mut call: impl FnMut() -> F)
where
    T: PartialEq + Debug,
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    let tables = Tables::save(pool, tables).await;
    let before = tables.read().await;
    let (value, hooks, after) = {
        let (value, hooks, first) = quiet(&tables, call()).await;
        tables.restore().await;
        let (again, _, second) = quiet(&tables, call()).await;
        tables.restore().await;
        assert!(
            value == again,
            "without a fault the call returned {value:?}, and then {again:?}: return a value that stays the same"
        );
        (value, hooks, first.without_varying(&second))
    };
    let expected = Expected { value, hooks, before, after };

    for fault in Fault::FAILURES {
        let places = [Place::Commit, Place::Begin].into_iter().chain((1..=MAX_PLACES).map(Place::Statement));
        for place in places.filter(|place| fault.fits(*place)) {
            let observed = Arc::<Observed>::default();
            let result = observe(Some(Plan::new(fault).at(place)), observed.clone(), call()).await;
            let found = tables.read().await;
            tables.restore().await;
            // There are no more statements.
            if !observed.has_fault.load(Ordering::Relaxed) && matches!(place, Place::Statement(_)) {
                break;
            }
            let disturbance = format!("after a fault ({}{})", fault.as_str(), describe(fault, place));
            expected.compare(&disturbance, result, observed.hooks.load(Ordering::Relaxed), &found, fault);
        }
    }
    for polls in 1..=MAX_PLACES {
        let result = without_faults(drop_after(polls, call())).await;
        let found = tables.read().await;
        tables.restore().await;
        if result.is_some() {
            return;
        }
        expected.all_or_nothing(&format!("after a drop at poll {polls}"), &found);
    }
}

/// When the fault came, if its name does not say so.
fn describe(fault: Fault, place: Place) -> String {
    match place {
        _ if matches!(fault, Fault::CommitUnknown { .. } | Fault::PoolExhausted) => String::new(),
        Place::Begin => String::from(" before BEGIN"),
        Place::Commit => String::from(" before COMMIT"),
        Place::Statement(statement) => format!(" in place of statement {statement}"),
    }
}

/// A run without a fault.
async fn quiet<T, E: Debug>(tables: &Tables<'_>, call: impl Future<Output = Result<T, E>>) -> (T, usize, Contents) {
    let observed = Arc::<Observed>::default();
    let value = observe(None, observed.clone(), call).await;
    let value = value.unwrap_or_else(|error| panic!("without a fault the call failed: {error:?}"));
    (value, observed.hooks.load(Ordering::Relaxed), tables.read().await)
}

/// What a run without a fault returned, how many hooks ran after its commits, and the rows before and after it.
struct Expected<T> {
    value: T,
    hooks: usize,
    before: Contents,
    after: Contents,
}

impl<T: PartialEq + Debug> Expected<T> {
    fn compare<E: Debug>(&self, disturbance: &str, result: Result<T, E>, hooks: usize, found: &Contents, fault: Fault) {
        let is_conflict = matches!(fault, Fault::SerializationFailure | Fault::Deadlock | Fault::LockTimeout);
        match result {
            Ok(value) => {
                if let Some(difference) = self.after.difference(found) {
                    let cure = match fault {
                        Fault::CommitUnknown { .. } => {
                            "the body was applied twice: use `unknown_commit = \"token\"` or `\"resolve\"`, or make it \
                             idempotent"
                        }
                        _ => "the body depends on what an earlier attempt has left outside of the transaction",
                    };
                    panic!("not safe to retry: {disturbance}, {difference}; {cure}");
                }
                assert!(
                    value == self.value,
                    "not safe to retry: {disturbance}, the call returned {value:?} instead of {:?}; what a body does \
                     outside of its transaction happens in each attempt: defer it with `on_commit`, or return it",
                    self.value
                );
                assert!(
                    hooks == self.hooks,
                    "not safe to retry: {disturbance}, the commit ran {hooks} hooks instead of {}; register the same hooks \
                     in each attempt",
                    self.hooks
                );
            }
            Err(error) if is_conflict => {
                panic!("not retried: {disturbance}, the call failed: {error:?}; see `deadlock_retries`");
            }
            Err(_) => self.all_or_nothing(disturbance, found),
        }
    }

    fn all_or_nothing(&self, disturbance: &str, found: &Contents) {
        if let (Some(from_before), Some(from_after)) = (self.before.difference(found), self.after.difference(found)) {
            panic!(
                "neither all nor nothing: {disturbance}, {from_after} (and compared with before the call, \
                 {from_before}); make one transaction of the call"
            );
        }
    }
}
