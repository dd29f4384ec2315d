//! The attribute `#[transactional]`, re-exported and documented by the crate `retry-runtime`.
//!
//! This crate parses the attribute and writes the retry loop. The runtime makes every decision: defaults, classification
//! of failures, and the statements sent to the server. `backoff` repeats a few defaults, only for the documentation that
//! the attribute adds to public functions.

mod arg;
mod args;
mod backoff;
mod choice;
mod contradictions;
mod document;
mod error;
mod expand;
mod item;
mod names;
mod parse;
#[cfg(test)]
mod robustness;
#[cfg(test)]
mod snapshots;
mod validate;
mod value;

use proc_macro::TokenStream;

// The documentation in `retry-runtime` comes before this. Some editors show only this.
/// # Options at a glance
///
/// - Budgets: `retries = 2`, `retry_for = "15s"`, `deadlock_retries = 5`. Further errors to retry: `retry_on = ["23505"]`, `retry_if = is_stale`.
/// - The transaction: `isolation = "serializable"`, `read_only`, `deferrable`, `begin = "pipelined"`.
/// - Back-off: `base_delay = "1ms"`, `max_delay = "50ms"`, `jitter = "full"`.
/// - Limits: `deadline = "2s"`, `statement_timeout = "500ms"`, `lock_timeout = "20ms"`, `idle_timeout = "10s"`.
/// - A `COMMIT` without a reply: `unknown_commit = "resolve"`.
/// - Hot rows: `queue_by = [from, to]`, `queue = "server"`, `early_release`, `escalate_after = 2`, `damping = "off"`.
/// - The function: `durable`, `independent`, `source = &self.pool`, `within = debit_within`, `name = "transfer"`, `allow_mut`, `undocumented`, `crate = ::retry_runtime`.
#[proc_macro_attribute]
pub fn transactional(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(args.into(), item.into()).into()
}
