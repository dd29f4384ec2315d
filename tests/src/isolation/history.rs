//! The history of a run, and its check by the rules of Elle.

use std::collections::{BTreeMap, HashSet};
use std::mem;
use std::time::Duration;

use adya::history::{Interner, Mop, Op, OpType, ReadValue, Scalar};
use adya::{History, Opts, Workload, check};

use super::body::{Done, Logged};
use crate::soak::call::Outcome;

/// All operations so far, in the order in which they began and ended.
#[derive(Default)]
pub(crate) struct Recorder {
    ops: Vec<Op>,
    interner: Interner,
    /// The processes of failed operations count down from 0.
    last_failed: i64,
    /// The values whose call returned `Ok`.
    acknowledged: Vec<i32>,
    pub(crate) counts: BTreeMap<&'static str, usize>,
    pub(crate) wrong: Vec<String>,
}

impl Recorder {
    /// A call begins. Each call is a process of its own.
    pub(crate) fn begin(&mut self, call: i64) {
        self.push(OpType::Invoke, call, Vec::new());
    }

    /// A call has ended. What it returned, and which hooks ran, decide the type of its operation.
    ///
    /// The attempts that did not commit become failed operations of their own, and so do the appends in undone savepoints:
    /// no other transaction may read them.
    pub(crate) fn end(&mut self, call: i64, outcome: &Outcome, mut log: Logged) {
        self.count(outcome.kind(), 1);
        self.count("retry", log.attempts.len().saturating_sub(1));
        self.count("swallowed error", log.swallowed);
        let last = log.attempts.keys().next_back().copied();
        let (number, mut kind) = match outcome {
            Outcome::Committed(number) => (u32::try_from(*number).ok(), OpType::Ok),
            Outcome::Unknown(_) | Outcome::Dropped => (last, OpType::Info),
            Outcome::Failed(_) | Outcome::Hung => (None, OpType::Fail),
        };
        for (attempt, committed) in mem::take(&mut log.hooks) {
            match (committed, number == Some(attempt)) {
                (true, true) => kind = OpType::Ok,
                (false, true) if kind == OpType::Info => kind = OpType::Fail,
                (true, false) => self.wrong(call, outcome, "on_commit ran, but the attempt did not commit"),
                (false, true) => self.wrong(call, outcome, "on_rollback ran, but the attempt committed"),
                (false, false) => {}
            }
        }
        if matches!(outcome, Outcome::Hung) {
            self.wrong(call, outcome, "it did not end");
        }
        let mut done = None;
        for (attempt, log) in log.attempts {
            // COMMIT is sent only after the body has returned `Ok`.
            let kept = log.done.filter(|_| number == Some(attempt) && kind != OpType::Fail);
            let is_kept = |value| {
                kept.iter().flatten().any(|done| matches!(done, Done::Append { value: kept, .. } if *kept == value))
            };
            let undone: Vec<_> = log.appended.into_iter().filter(|(_, value)| !is_kept(*value)).collect();
            if kept.is_some() {
                self.count("append undone by a savepoint", undone.len());
            }
            self.failed(undone);
            done = kept.or(done);
        }
        match done {
            Some(done) => self.completed(call, kind, done),
            None if kind == OpType::Ok => self.wrong(call, outcome, "its body did not return Ok"),
            None => self.push(OpType::Fail, call, Vec::new()),
        }
    }

    fn completed(&mut self, call: i64, kind: OpType, done: Vec<Done>) {
        let mut value = Vec::new();
        for done in done {
            match done {
                Done::Append { key, value: appended } => {
                    if kind == OpType::Ok {
                        self.acknowledged.push(appended);
                    }
                    value.push(self.append(key, appended));
                }
                Done::Read { key, list } if kind == OpType::Ok => value.push(self.read(key, &list)),
                // It may have read what no committed transaction ever saw.
                Done::Read { .. } => {}
            }
        }
        self.push(kind, call, value);
    }

    /// Records appends that must not be seen.
    fn failed(&mut self, appends: Vec<(i32, i32)>) {
        if appends.is_empty() {
            return;
        }
        self.last_failed -= 1;
        let value = appends.into_iter().map(|(key, value)| self.append(key, value)).collect();
        self.push(OpType::Invoke, self.last_failed, Vec::new());
        self.push(OpType::Fail, self.last_failed, value);
    }

    fn push(&mut self, kind: OpType, process: i64, value: Vec<Mop>) {
        let index = self.ops.len() as u64;
        self.ops.push(Op { index, kind, process: Some(process), value, time: None });
    }

    fn append(&mut self, key: i32, value: i32) -> Mop {
        Mop::Append { key: self.intern(key), value: self.intern(value) }
    }

    fn read(&mut self, key: i32, list: &[i32]) -> Mop {
        let list = list.iter().map(|value| self.intern(*value)).collect();
        Mop::Read { key: self.intern(key), value: ReadValue::List(list) }
    }

    fn intern(&mut self, number: i32) -> u32 {
        self.interner.intern(Scalar::Int(number.into()))
    }

    fn count(&mut self, what: &'static str, count: usize) {
        *self.counts.entry(what).or_default() += count;
    }

    fn wrong(&mut self, call: i64, outcome: &Outcome, what: &str) {
        self.wrong.push(format!("call {call} ({outcome}): {what}"));
    }

    /// Adds what the lists hold at the end, one operation for each, and finishes the history.
    pub(crate) fn finish(mut self, lists: &[(i32, Vec<i32>)], first_process: i64) -> (History, Vec<String>) {
        for (process, (key, list)) in (first_process..).zip(lists) {
            self.begin(process);
            let read = self.read(*key, list);
            self.push(OpType::Ok, process, vec![read]);
        }
        let held: HashSet<i32> = lists.iter().flat_map(|(_, list)| list).copied().collect();
        let missing = self.acknowledged.iter().filter(|value| !held.contains(value));
        self.wrong
            .extend(missing.map(|value| format!("the call that appended {value} returned Ok, but it is missing")));
        (History::from_ops(self.ops, self.interner), self.wrong)
    }
}

/// The anomalies that a model forbids, by type, each explained.
pub(crate) fn anomalies(history: &History, model: &str) -> BTreeMap<String, Vec<String>> {
    let opts = Opts { models: vec![model.to_owned()], timeout: Duration::from_secs(5), ..Opts::default() };
    let report = check(history, Workload::ListAppend, &opts);
    let texts = |found: Vec<adya::Anomaly>| found.into_iter().map(|anomaly| anomaly.explanation).collect();
    report.anomalies.into_iter().map(|(kind, found)| (kind, texts(found))).collect()
}
