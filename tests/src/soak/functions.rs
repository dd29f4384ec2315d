//! The functions that the soak test calls: every value of `unknown_commit`, each combined with other options.

use std::fmt;
use std::time::Duration;

use retry_runtime::{BoxFuture, Source, Transaction, transactional};

use super::body;
use super::call::{Call, Failed};

/// A `#[transactional]` function.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) deadline: Option<Duration>,
    /// Whether `BEGIN` is pipelined. The first statement must then only read.
    pub(crate) pipelined: bool,
    pub(crate) run: for<'a> fn(Source<'a>, &'a Call) -> BoxFuture<'a, Result<u32, Failed>>,
}

impl Function {
    /// Whether several attempts may be committed: `unknown_commit = "retry"`.
    pub(crate) fn repeats(&self) -> bool {
        self.name.starts_with("retry")
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! functions {
    ($module:ident; $($name:ident: deadline $deadline:expr, pipelined $pipelined:expr $(, $option:meta)*;)*) => {
        use super::*;

        $(
            #[transactional(base_delay = "250us", max_delay = "2ms" $(, $option)*)]
            async fn $name(tx: &mut Transaction<'_>, call: &Call) -> Result<u32, Failed> {
                body::run(tx, call).await
            }
        )*

        pub(super) const ALL: [Function; PER_MODULE] = [$(Function {
            name: concat!(stringify!($module), "::", stringify!($name)),
            deadline: $deadline,
            pipelined: $pipelined,
            run: |source, call| Box::pin($name(source, call)),
        },)*];
    };
}

/// How many functions there are for each value of `unknown_commit`.
pub(crate) const PER_MODULE: usize = 15;

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_millis(500);

macro_rules! functions_for_each {
    ($($module:ident = $unknown:literal;)*) => {
        $(mod $module {
            functions! { $module;
                plain: deadline None, pipelined false, unknown_commit = $unknown;
                committed: deadline None, pipelined false, unknown_commit = $unknown, isolation = "read committed";
                serializable: deadline None, pipelined false, unknown_commit = $unknown, isolation = "serializable";
                pipelined: deadline None, pipelined true, unknown_commit = $unknown, begin = "pipelined";
                serializable_pipelined: deadline None, pipelined true, unknown_commit = $unknown,
                    isolation = "serializable", begin = "pipelined";
                early: deadline None, pipelined false, unknown_commit = $unknown, early_release;
                early_serializable: deadline None, pipelined false, unknown_commit = $unknown, early_release,
                    isolation = "serializable";
                short: deadline Some(SHORT), pipelined false, unknown_commit = $unknown, deadline = SHORT;
                short_early: deadline Some(SHORT), pipelined true, unknown_commit = $unknown, early_release,
                    deadline = SHORT, begin = "pipelined";
                short_serializable: deadline Some(SHORT), pipelined false, unknown_commit = $unknown,
                    deadline = SHORT, isolation = "serializable";
                short_pipelined: deadline Some(SHORT), pipelined true, unknown_commit = $unknown,
                    deadline = SHORT, begin = "pipelined";
                long: deadline Some(LONG), pipelined false, unknown_commit = $unknown, deadline = LONG;
                long_serializable: deadline Some(LONG), pipelined false, unknown_commit = $unknown,
                    deadline = LONG, isolation = "serializable", escalate_after = 2;
                long_pipelined: deadline Some(LONG), pipelined true, unknown_commit = $unknown,
                    deadline = LONG, begin = "pipelined";
                long_serializable_pipelined: deadline Some(LONG), pipelined true, unknown_commit = $unknown,
                    deadline = LONG, isolation = "serializable", begin = "pipelined", lock_timeout = "100ms";
            }
        })*

        /// All functions, by their `unknown_commit`.
        pub(crate) static FUNCTIONS: [[Function; PER_MODULE]; 4] = [$($module::ALL),*];
    };
}

functions_for_each! {
    fail = "fail";
    retry = "retry";
    resolve = "resolve";
    token = "token";
}
