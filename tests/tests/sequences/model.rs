//! What a call must do: a transaction, its savepoints, its hooks and its retries, without a server.

use crate::script::{End, Kind, RETRIES, Script, Step};
use crate::trace::{Drop, Entry};

/// What a call has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) trace: Vec<Entry>,
    pub(crate) ok: bool,
    /// The rows that are committed.
    pub(crate) rows: Vec<i32>,
}

/// The body ends with an error.
struct Returned;

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Committed,
    RolledBack,
    Always,
}

/// Why an attempt is retried unless it commits. A rollback to a savepoint does not change it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Conflict,
    /// A message of a dropped call has aborted the transaction. It may have been a conflict.
    Unseen,
}

/// An attempt of the call.
struct Attempt<'a> {
    number: u32,
    rows: Vec<i32>,
    hooks: Vec<(When, i32)>,
    /// The server refuses statements until a rollback to a savepoint.
    is_aborted: bool,
    /// A sent statement has failed, and no savepoint has undone it.
    has_sent_error: bool,
    cause: Option<Cause>,
    trace: &'a mut Vec<Entry>,
    drops: &'a mut dyn Iterator<Item = Drop>,
}

/// What a savepoint restores.
struct Mark {
    rows: usize,
    hooks: usize,
    has_sent_error: bool,
}

/// Runs the script. `drops`: what became of each nested call and savepoint that could be dropped. `attempts`: how many there were.
pub(crate) fn run(script: &Script, drops: &mut dyn Iterator<Item = Drop>, attempts: u32) -> Expected {
    let mut trace = Vec::new();
    let (mut conflicts, mut unseen) = (0, 0);
    for number in 1.. {
        trace.push(Entry::Attempt(number));
        let mut attempt = Attempt {
            number,
            rows: Vec::new(),
            hooks: Vec::new(),
            is_aborted: false,
            has_sent_error: false,
            cause: None,
            trace: &mut trace,
            drops,
        };
        let mut rollback_only = false;
        let ok = attempt.run(&script.steps, &mut rollback_only).is_ok() && script.ok;
        let has_conflict = attempt.cause == Some(Cause::Conflict);
        let commits = ok && !rollback_only && !has_conflict && !attempt.is_aborted;
        // If a failure was seen later, that one decides.
        let is_unseen = attempt.cause == Some(Cause::Unseen) && number < attempts;
        let asks = !commits && !rollback_only && (has_conflict || is_unseen);
        let budget = if has_conflict { &mut conflicts } else { &mut unseen };
        *budget += u32::from(asks);
        let retries = asks && *budget <= RETRIES;
        let returns_ok = commits || (ok && rollback_only && !attempt.has_sent_error);
        attempt.run_hooks(if commits { When::Committed } else { When::RolledBack });
        if !retries {
            let rows = if commits { attempt.rows } else { Vec::new() };
            return Expected { trace, ok: returns_ok, rows };
        }
    }
    unreachable!("the last attempt is not retried")
}

impl Attempt<'_> {
    fn run(&mut self, steps: &[Step], rollback_only: &mut bool) -> Result<(), Returned> {
        for step in steps {
            self.step(step, rollback_only)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step, rollback_only: &mut bool) -> Result<(), Returned> {
        match &step.kind {
            Kind::Write => {
                let ok = self.write(step.id);
                self.replied(step, ok);
            }
            Kind::Send => drop(self.write(step.id)),
            Kind::Fail { returned } => return self.failed(step, *returned),
            Kind::SendFailing => self.sent_failed(),
            Kind::Conflict { until, .. } if self.number > *until && !self.is_aborted => self.replied(step, true),
            Kind::Conflict { returned, .. } => {
                self.conflicts();
                return self.failed(step, *returned);
            }
            Kind::SendConflict { until } if self.number > *until && !self.is_aborted => {}
            Kind::SendConflict { .. } => {
                self.conflicts();
                self.sent_failed();
            }
            Kind::OnCommit => self.hooks.push((When::Committed, step.id)),
            Kind::OnRollback => self.hooks.push((When::RolledBack, step.id)),
            Kind::SetRollbackOnly => *rollback_only = true,
            Kind::Savepoint { dropped_after: Some(_), .. } | Kind::Nested { dropped_after: Some(_), .. }
                if self.is_dropped(step) => {}
            Kind::Savepoint { steps, end, .. } => return self.savepoint(step, steps, *end),
            Kind::Nested { steps, ok, returned, .. } => {
                let ok = self.nested(steps, *ok);
                self.replied(step, ok);
                if !ok && *returned {
                    return Err(Returned);
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, id: i32) -> bool {
        if !self.is_aborted {
            self.rows.push(id);
        }
        !self.is_aborted
    }

    fn failed(&mut self, step: &Step, returned: bool) -> Result<(), Returned> {
        self.is_aborted = true;
        self.replied(step, false);
        if returned { Err(Returned) } else { Ok(()) }
    }

    fn conflicts(&mut self) {
        if !self.is_aborted {
            self.cause = Some(Cause::Conflict);
        }
    }

    fn sent_failed(&mut self) {
        // After another failure the error says only that the transaction is aborted.
        self.has_sent_error |= !self.is_aborted;
        self.is_aborted = true;
    }

    fn is_dropped(&mut self, step: &Step) -> bool {
        let drop = self.drops.next().expect("one for each");
        if drop == Drop::Ended {
            return false;
        }
        if drop == Drop::Aborted && !self.is_aborted {
            self.is_aborted = true;
            self.cause.get_or_insert(Cause::Unseen);
        }
        let found = if self.is_aborted { Drop::Aborted } else { Drop::Undone };
        self.trace.push(Entry::Dropped(step.id, found));
        true
    }

    fn replied(&mut self, step: &Step, ok: bool) {
        self.trace.push(Entry::Replied(step.id, ok));
    }

    fn savepoint(&mut self, step: &Step, steps: &[Step], end: End) -> Result<(), Returned> {
        if self.is_aborted {
            self.replied(step, false);
            return Ok(());
        }
        let (mark, mut rollback_only) = (self.mark(), false);
        if self.run(steps, &mut rollback_only).is_err() {
            self.roll_back_to(&mark);
            return Err(Returned);
        }
        match end {
            End::Commit => {
                let ok = self.release(&mark, rollback_only);
                self.replied(step, ok);
            }
            End::RollBack => {
                self.roll_back_to(&mark);
                self.replied(step, true);
            }
            End::Drop => self.roll_back_to(&mark),
        }
        Ok(())
    }

    fn nested(&mut self, steps: &[Step], ok: bool) -> bool {
        if self.is_aborted {
            return false;
        }
        let (mark, mut rollback_only) = (self.mark(), false);
        if self.run(steps, &mut rollback_only).is_err() || !ok {
            self.roll_back_to(&mark);
            return false;
        }
        self.release(&mark, rollback_only)
    }

    /// Whether it succeeds.
    fn release(&mut self, mark: &Mark, rollback_only: bool) -> bool {
        let has_sent_error = self.has_sent_error;
        let is_kept = !rollback_only && !self.is_aborted;
        if !is_kept {
            self.roll_back_to(mark);
        }
        is_kept || (rollback_only && !has_sent_error)
    }

    fn mark(&self) -> Mark {
        Mark { rows: self.rows.len(), hooks: self.hooks.len(), has_sent_error: self.has_sent_error }
    }

    /// A conflict is not forgiven.
    fn roll_back_to(&mut self, mark: &Mark) {
        self.rows.truncate(mark.rows);
        let since = self.hooks.split_off(mark.hooks);
        let kept = since.into_iter().filter(|(when, _)| *when != When::Committed);
        self.hooks.extend(kept.map(|(_, id)| (When::Always, id)));
        self.is_aborted = false;
        self.has_sent_error = mark.has_sent_error;
    }

    fn run_hooks(&mut self, outcome: When) {
        let due = self.hooks.iter().filter(|(when, _)| *when == outcome || *when == When::Always);
        self.trace.extend(due.map(|(_, id)| Entry::Hook(*id)));
    }
}
