//! What a call does, as data: a tree of steps.

use proptest::collection::vec;
use proptest::prelude::*;

/// A call.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) steps: Vec<Step>,
    /// Whether the body returns `Ok`.
    pub(crate) ok: bool,
    /// Drop the call after so many polls.
    pub(crate) dropped_after: Option<u32>,
}

/// One step of a body. An error of a step is ignored, unless it says `returned`.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Its number in the script.
    pub(crate) id: i32,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Inserts a row, and waits for the reply.
    Write,
    /// Inserts a row with `send`.
    Send,
    /// A statement that fails.
    Fail {
        returned: bool,
    },
    /// The same with `send`.
    SendFailing,
    /// A statement that fails with a serialization failure in this attempt and those before it.
    Conflict {
        until: u32,
        returned: bool,
    },
    /// The same with `send`.
    SendConflict {
        until: u32,
    },
    OnCommit,
    OnRollback,
    SetRollbackOnly,
    /// A savepoint of the body's own. `dropped_after`: the wait for its begin is dropped first.
    Savepoint {
        steps: Vec<Step>,
        end: End,
        dropped_after: Option<u32>,
    },
    /// A call of a transactional function.
    Nested {
        steps: Vec<Step>,
        ok: bool,
        returned: bool,
        dropped_after: Option<u32>,
    },
}

/// The end of a savepoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Commit,
    RollBack,
    Drop,
}

/// The retries of a call, of each of its two budgets.
pub(crate) const RETRIES: u32 = 2;

/// Random scripts.
pub(crate) fn scripts() -> impl Strategy<Value = Script> {
    let parts = (steps(), prop::bool::weighted(0.85), dropped_after(0.15));
    parts.prop_map(|(mut steps, ok, dropped_after)| {
        number(&mut steps, &mut 0);
        Script { steps, ok, dropped_after }
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let tree = simple().prop_recursive(3, 16, 5, |inner| {
        let end = prop_oneof![3 => Just(End::Commit), 1 => Just(End::RollBack), 1 => Just(End::Drop)];
        let steps = vec(inner.prop_map(step), 0..5);
        let nested = (steps.clone(), prop::bool::weighted(0.8), prop::bool::weighted(0.3), dropped_after(0.2));
        prop_oneof![
            (steps, end, prop::option::weighted(0.1, 1..4_u32))
                .prop_map(|(steps, end, dropped_after)| Kind::Savepoint { steps, end, dropped_after }),
            nested.prop_map(|(steps, ok, returned, dropped_after)| {
                let dropped_after = dropped_after.filter(|_| can_be_dropped(&steps));
                Kind::Nested { steps, ok, returned, dropped_after }
            }),
        ]
    });
    vec(tree.prop_map(step), 0..6)
}

fn simple() -> impl Strategy<Value = Kind> {
    let until = || prop_oneof![4 => Just(1), 2 => Just(2), 1 => Just(RETRIES + 1)];
    let returned = || prop::bool::weighted(0.3);
    prop_oneof![
        12 => Just(Kind::Write),
        4 => Just(Kind::Send),
        2 => returned().prop_map(|returned| Kind::Fail { returned }),
        1 => Just(Kind::SendFailing),
        2 => (until(), returned()).prop_map(|(until, returned)| Kind::Conflict { until, returned }),
        1 => until().prop_map(|until| Kind::SendConflict { until }),
        3 => Just(Kind::OnCommit),
        2 => Just(Kind::OnRollback),
        1 => Just(Kind::SetRollbackOnly),
    ]
}

fn step(kind: Kind) -> Step {
    Step { id: 0, kind }
}

fn dropped_after(probability: f64) -> impl Strategy<Value = Option<u32>> {
    prop::option::weighted(probability, 1..24_u32)
}

/// What these steps leave behind does not depend on how far they came: a conflict is not forgiven, and `on_rollback` runs.
fn can_be_dropped(steps: &[Step]) -> bool {
    steps.iter().all(|step| match &step.kind {
        Kind::Conflict { .. } | Kind::SendConflict { .. } | Kind::OnRollback => false,
        Kind::Savepoint { steps, .. } | Kind::Nested { steps, .. } => can_be_dropped(steps),
        _ => true,
    })
}

fn number(steps: &mut [Step], next: &mut i32) {
    for step in steps {
        *next += 1;
        step.id = *next;
        if let Kind::Savepoint { steps, .. } | Kind::Nested { steps, .. } = &mut step.kind {
            number(steps, next);
        }
    }
}
