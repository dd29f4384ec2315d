//! Work deferred until an attempt's outcome is known.

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::Poll;

use crate::error::CommitOutcome;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Committed,
    RolledBack,
    /// It was registered in a savepoint that is rolled back already, so the attempt's outcome does not matter.
    Always,
}

impl When {
    fn is_due(self, outcome: CommitOutcome) -> bool {
        match self {
            Self::Committed => outcome == CommitOutcome::Committed,
            Self::RolledBack => outcome == CommitOutcome::RolledBack,
            Self::Always => true,
        }
    }
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

    /// Whether there is work that runs only after a commit.
    pub(crate) fn wait_for_commit(&self) -> bool {
        self.0.iter().any(|(when, _)| *when == When::Committed)
    }

    /// Rolls back the savepoint that began when there were `mark` hooks. Returns the hooks that will not run.
    pub(crate) fn roll_back_to(&mut self, mark: usize) -> Self {
        let since = self.0.split_off(mark.min(self.0.len()));
        let (undone, kept): (Vec<_>, Vec<_>) = since.into_iter().partition(|(when, _)| *when == When::Committed);
        self.0.extend(kept.into_iter().map(|(_, work)| (When::Always, work)));
        Self(undone)
    }

    /// Takes what runs after this outcome. The rest is dropped.
    pub(crate) fn take(&mut self, outcome: CommitOutcome) -> Vec<Work> {
        let hooks = std::mem::take(&mut self.0).into_iter();
        hooks.filter(|(when, _)| when.is_due(outcome)).map(|(_, work)| work).collect()
    }
}

/// Runs hooks one after the other. If some panic, the others still run, and the first panic continues afterwards.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(when: &[When]) -> Hooks {
        let mut hooks = Hooks::default();
        for when in when {
            hooks.add(*when, async {});
        }
        hooks
    }

    fn due(when: &[When], outcome: CommitOutcome) -> usize {
        hooks(when).take(outcome).len()
    }

    #[test]
    fn the_outcome_decides_which_hooks_run() {
        use CommitOutcome::{Committed, RolledBack, Unknown};
        let all = [When::Committed, When::Committed, When::RolledBack, When::Always];
        assert_eq!(due(&all, Committed), 3);
        assert_eq!(due(&all, RolledBack), 2);
        assert_eq!(due(&all, Unknown), 1);
    }

    #[test]
    fn a_rolled_back_savepoint_runs_its_rollback_hooks_whatever_follows() {
        let mut all = hooks(&[When::Committed, When::RolledBack, When::Committed, When::RolledBack]);
        assert_eq!(all.roll_back_to(2).len(), 1);
        let kept: Vec<_> = all.0.iter().map(|(when, _)| *when).collect();
        assert_eq!(kept, [When::Committed, When::RolledBack, When::Always]);
        assert_eq!(all.roll_back_to(9).len(), 0);
    }
}
