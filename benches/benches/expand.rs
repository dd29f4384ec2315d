//! What the macro takes to expand, with the tokens of `proc-macro2`: the compiler's own are not to be had outside of it.

// The modules keep to an older Rust, and their unit tests come along without being run.
#![allow(clippy::collapsible_if, dead_code, unused_imports)]

// The macro's modules as they are, in a crate of our own: a crate of macros exports nothing else.
#[path = "../../retry-macros/src/args.rs"]
mod args;
#[path = "../../retry-macros/src/backoff.rs"]
mod backoff;
#[path = "../../retry-macros/src/document.rs"]
mod document;
#[path = "../../retry-macros/src/error.rs"]
mod error;
#[path = "../../retry-macros/src/expand.rs"]
mod expand;
#[path = "../../retry-macros/src/item.rs"]
mod item;
#[path = "../../retry-macros/src/names.rs"]
mod names;
#[path = "../../retry-macros/src/validate.rs"]
mod validate;
#[path = "../../retry-macros/src/value.rs"]
mod value;

use divan::Bencher;
use proc_macro2::TokenStream;
use quote::quote;

fn main() {
    divan::main();
}

/// Without options, and all that has to be generated is the loop.
#[divan::bench]
fn minimal(bencher: Bencher<'_, '_>) {
    measure(bencher, TokenStream::new, || transfer(5));
}

/// With many options.
#[divan::bench]
fn options(bencher: Bencher<'_, '_>) {
    let options = || {
        quote! {
            retries = 5, deadlock_retries = limits::LIMIT, isolation = "serializable", base_delay = "250us",
            max_delay = "20ms", jitter = "equal", lock_timeout = "20ms", statement_timeout = "5s", deadline = "10s",
            retry_if = |error| error.is_stale(), retry_on = ["23505"], source = &self.pool, name = "transfer",
            unknown_commit = "resolve", queue_by = [from, to], escalate_after = 2, begin = "pipelined"
        }
    };
    measure(bencher, options, || transfer(5));
}

/// With a body of a thousand statements, which passes through as it is.
#[divan::bench]
fn long_body(bencher: Bencher<'_, '_>) {
    measure(bencher, TokenStream::new, || transfer(1_000));
}

fn measure(bencher: Bencher<'_, '_>, options: impl Fn() -> TokenStream, function: impl Fn() -> TokenStream) {
    let expanded = expand::expand(options(), function()).to_string();
    assert!(!expanded.contains("compile_error"), "{expanded}");
    bencher.with_inputs(|| (options(), function())).bench_local_values(|(options, item)| expand::expand(options, item));
}

fn transfer(statements: usize) -> TokenStream {
    let body = (0..statements).map(|_| {
        quote! { tx.execute("UPDATE accounts SET balance = balance + $2 WHERE id = $1", &[&from, &cents]).await?; }
    });
    quote! {
        pub async fn transfer(&self, tx: &mut Transaction<'_>, from: i64, to: i64, cents: i64) -> Result<(), Error> {
            #(#body)*
            Ok(())
        }
    }
}
