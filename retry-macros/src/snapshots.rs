//! Snapshots of the expansion, one file for each form of function. `UPDATE_EXPECT=1 cargo test -p retry-macros` updates
//! them.

use expect_test::{ExpectFile, expect_file};
use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Item, ItemFn};

use crate::expand::expand;

fn check(args: TokenStream, item: TokenStream, expected: &ExpectFile) {
    let expansion = expand(args, item);
    let file = syn::parse2(expansion).expect("the expansion is not Rust");
    expected.assert_eq(&prettyplease::unparse(&file));
}

#[test]
fn minimal() {
    check(
        TokenStream::new(),
        quote! {
            async fn touch(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
                tx.execute("UPDATE accounts SET cents = cents WHERE id = $1", &[&id]).await?;
                Ok(())
            }
        },
        &expect_file!["snapshots/minimal.rs"],
    );
}

#[test]
fn all_options() {
    check(
        quote! {
            retries = 5, deadlock_retries = LIMIT, isolation = "serializable", read_only, deferrable,
            base_delay = "250us", max_delay = limits::CAP, jitter = "equal", statement_timeout = "2s",
            lock_timeout = "20ms", idle_timeout = "1m", deadline = "3s", unknown_commit = "retry", retry_if = |error| error.is_stale(),
            retry_on = ["23505", "23P01"], source = &POOL, name = "report", crate = bank::retry, allow_mut,
            queue_by = [totals.len(), totals.capacity()], queue = "process", escalate_after = 2, damping = "off", begin = "awaited",
        },
        quote! {
            async fn report(tx: &Transaction<'_>, totals: &mut Vec<i64>) -> Result<(), BankError> {
                totals.push(tx.query_one("SELECT sum(cents) FROM accounts", &[]).await?.get(0));
                Ok(())
            }
        },
        &expect_file!["snapshots/all_options.rs"],
    );
}

#[test]
fn method() {
    check(
        quote!(source = &self.pool),
        quote! {
            /// What an account holds.
            #[must_use]
            pub(crate) async fn cents(&self, tx: &Transaction<'_>, id: i64) -> anyhow::Result<i64> {
                Ok(tx.query_one(self.sql, &[&id]).await?.get(0))
            }
        },
        &expect_file!["snapshots/method.rs"],
    );
}

#[test]
fn twin() {
    check(
        quote!(source = &self.pool, within = debit_within, queue_by = id),
        quote! {
            /// Takes money.
            #[must_use]
            pub async fn debit(&self, tx: &mut Transaction<'_>, id: i64) -> Result<u64, Error> {
                Ok(tx.execute(self.sql, &[&id]).await?)
            }
        },
        &expect_file!["snapshots/twin.rs"],
    );
}

#[test]
fn generics() {
    check(
        TokenStream::new(),
        quote! {
            pub async fn store<'a, T, const N: usize>(
                tx: &'a mut Transaction<'a>,
                values: &[T; N],
                name: &'a str,
            ) -> Result<impl Iterator<Item = &'a str> + use<'a, T, N>, Error>
            where
                T: ToSql + Sync,
            {
                #![allow(clippy::unused_async)]
                Ok(std::iter::once(name))
            }
        },
        &expect_file!["snapshots/generics.rs"],
    );
}

#[test]
fn patterns() {
    check(
        TokenStream::new(),
        quote! {
            async fn drain(_: &mut Transaction<'_>, mut ids: Vec<i64>, (mut a, b): (i64, i64)) -> Result<i64, Error> {
                a += ids.pop().unwrap_or(b);
                Ok(a)
            }
        },
        &expect_file!["snapshots/patterns.rs"],
    );
}

#[test]
fn faulty_attribute() {
    check(
        quote!(retry = 5, isolation = "chaos", read_only),
        quote! {
            async fn touch(tx: &Transaction<'_>) -> Result<(), Error> {
                Ok(tx.batch_execute("SELECT 1").await?)
            }
        },
        &expect_file!["snapshots/faulty_attribute.rs"],
    );
}

#[test]
fn no_transaction() {
    check(
        TokenStream::new(),
        quote! {
            fn touch(id: i64) -> Result<(), Error> {
                Ok(())
            }
        },
        &expect_file!["snapshots/no_transaction.rs"],
    );
}

/// `examples/transfer_expanded.rs` is written for readers. This compares it with the macro's output.
#[test]
fn the_example_is_what_the_macro_writes() {
    let mut source = the_function(include_str!("../../examples/transfer.rs"));
    let at = source.attrs.iter().position(|attr| attr.path().is_ident("transactional")).expect("the attribute");
    let options = source.attrs.remove(at).meta.require_list().expect("options").tokens.clone();
    let expanded = text(&syn::parse2(expand(options, source.to_token_stream())).expect("the expansion is not Rust"));
    let shown = text(&the_function(include_str!("../../examples/transfer_expanded.rs")));
    assert!(shown == expanded, "transfer_expanded.rs is not the expansion, which is\n\n{expanded}");
}

/// The function called `transfer`.
fn the_function(file: &str) -> ItemFn {
    let functions = syn::parse_file(file).expect("Rust").items.into_iter().filter_map(|item| match item {
        Item::Fn(function) if function.sig.ident == "transfer" => Some(function),
        _ => None,
    });
    functions.into_iter().next().expect("a function called `transfer`")
}

/// The function without comments, in one layout.
fn text(function: &ItemFn) -> String {
    prettyplease::unparse(&syn::parse_quote!(#function))
}
