//! The functions that run the transactions: each with other options, or with another body.

use std::fmt;

use retry_runtime::{BoxFuture, Transaction, transactional};

use super::Level;
use super::body::{self, Call};
use crate::soak::call::Failed;

/// A `#[transactional]` function.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) style: Style,
    pub(crate) run: for<'a> fn(&'a deadpool_postgres::Pool, &'a Call) -> BoxFuture<'a, Result<u32, Failed>>,
}

/// What its body does besides the steps of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    /// Half of the steps are in a nested call.
    Nested,
    /// A nested call does the steps, and is dropped at a random moment.
    NestedDropped,
    /// A nested call does the steps and then fails. The body handles that, and does them again.
    NestedUndone,
    /// The same with a savepoint of the body. The second one is committed.
    Savepoint,
    /// The body ignores the errors of statements.
    Swallow,
    /// Appends are sent without waiting for their replies.
    Send,
    /// The first attempt returns an error that `retry_if` retries.
    Repeat,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn is_stale(error: &Failed) -> bool {
    matches!(error, Failed::Text(_))
}

// `$call` is the name of the parameter: options can only use a name that comes from the same macro.
macro_rules! functions {
    ($isolation:literal, $call:ident; $($name:ident: $style:ident $(, $option:meta)*;)*) => {
        use super::*;

        $(
            #[transactional(isolation = $isolation, base_delay = "250us", max_delay = "2ms" $(, $option)*)]
            async fn $name(tx: &mut Transaction<'_>, $call: &Call) -> Result<u32, Failed> {
                body::run(tx, $call).await
            }
        )*

        pub(super) const ALL: &[Function] = &[$(Function {
            name: stringify!($name),
            style: Style::$style,
            run: |pool, call| Box::pin($name(pool, call)),
        },)*];
    };
}

macro_rules! functions_at {
    ($($module:ident = $isolation:literal;)*) => {
        $(mod $module {
            functions! { $isolation, call;
                plain: Plain;
                pipelined: Plain, begin = "pipelined";
                nested: Nested;
                nested_dropped: NestedDropped;
                nested_undone: NestedUndone, begin = "pipelined";
                savepoint: Savepoint;
                swallow: Swallow;
                send: Send, begin = "pipelined";
                token: Send, unknown_commit = "token";
                resolve: Plain, unknown_commit = "resolve", escalate_after = 2;
                queued: Plain, queue_by = call.plan.first_key();
                early: Nested, early_release;
                repeat: Repeat, retry_if = is_stale, deadline = "500ms";
            }
        })*
    };
}

functions_at! {
    serializable = "serializable";
    read_committed = "read committed";
}

/// The functions with this isolation level.
pub(crate) fn functions(level: Level) -> &'static [Function] {
    match level {
        Level::Serializable => serializable::ALL,
        Level::ReadCommitted => read_committed::ALL,
    }
}
