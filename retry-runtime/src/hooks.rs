//! Work put off until an attempt's outcome is known.

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::Poll;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Committed,
    RolledBack,
    /// Registered in a savepoint that is rolled back already, whatever becomes of the transaction.
    Ended,
}

/// An attempt's hooks, in the order of registration.
#[derive(Default)]
pub(crate) struct Hooks(Vec<(When, Work)>);

impl Hooks {
    pub(crate) fn add(&mut self, when: When, work: impl Future<Output = ()> + Send + 'static) {
        self.0.push((when, Box::pin(work)));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The savepoint that was begun at `mark` hooks is rolled back.
    pub(crate) fn roll_back_to(&mut self, mark: usize) {
        let undone = self.0.split_off(mark.min(self.0.len()));
        self.0.extend(
            undone.into_iter().filter(|(when, _)| *when != When::Committed).map(|(_, work)| (When::Ended, work)),
        );
    }

    /// Takes what is to run at the end: `outcome` is `None` where it is unknown.
    pub(crate) fn take(&mut self, outcome: Option<When>) -> Vec<Work> {
        let due = |when: When| when == When::Ended || Some(when) == outcome;
        std::mem::take(&mut self.0).into_iter().filter(|(when, _)| due(*when)).map(|(_, work)| work).collect()
    }
}

/// Runs them one after the other. If some panic, the rest still run, and then the first panic goes on.
pub(crate) async fn run(hooks: Vec<Work>) {
    let mut panic = None;
    for mut hook in hooks {
        let end = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| hook.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        });
        panic = panic.or(end.await.err());
    }
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(when, _)| when)).finish()
    }
}
