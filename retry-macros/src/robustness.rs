//! Tests with broken input: the macro returns tokens for any tokens, keeps the function, and never panics.
//!
//! `PROPTEST_CASES=100000` tries more random tokens, with a new seed each time.

use std::collections::BTreeMap;

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use proptest::collection::vec;
use proptest::prelude::*;
use quote::quote;

use crate::expand::expand;

/// Expands, and panics with the input if that panics.
fn survives(args: &TokenStream, item: &TokenStream) -> TokenStream {
    let (text, input) = (format!("#[transactional({args})] {item}"), (args.clone(), item.clone()));
    std::panic::catch_unwind(|| expand(input.0, input.1)).unwrap_or_else(|_| panic!("panicked at: {text}"))
}

fn transfer() -> TokenStream {
    quote! {
        /// Moves money.
        #[must_use]
        pub(crate) async fn transfer<'a, T: Sync, const N: usize>(
            &self,
            tx: &mut Transaction<'_>,
            mut from: i64,
            (mut to, ref at): (i64, &'a T),
        ) -> Result<impl Iterator<Item = i64> + use<'a, T, N>, Error>
        where
            T: ToSql,
        {
            #![allow(unused)]
            tx.execute("SELECT 1", &[]).await?;
            Ok([from, to].into_iter())
        }
    }
}

fn options() -> TokenStream {
    quote! {
        retries = 5, deadlock_retries = limits::LIMIT, isolation = "serializable", read_only, deferrable,
        base_delay = "250us", lock_timeout = "20ms", retry_if = |error| error.is_stale(), retry_on = ["23505"],
        source = &self.pool, within = transfer_within, name = "transfer", crate = ::renamed, allow_mut, jitter = "none",
    }
}

#[test]
fn half_typed_functions() {
    let none = TokenStream::new();
    for item in [
        quote!(),
        quote!(async),
        quote!(pub),
        quote!(#[inline]),
        quote!(async fn),
        quote!(async fn transfer),
        quote!(async fn transfer()),
        quote!(async fn transfer(&self)),
        quote!(
            async fn transfer(self) {}
        ),
        quote!(async fn transfer(tx) -> Result<(), Error> {}),
        quote!(async fn transfer(tx:) -> Result<(), Error> {}),
        quote!(async fn transfer(tx: &) -> Result<(), Error> {}),
        quote!(async fn transfer(tx: &mut Transaction<'_>) -> {}),
        quote!(async fn transfer(tx: &mut Transaction<'_>) -> Result<(), Error>),
        quote!(
            async fn transfer(tx: &mut Transaction<'_>) -> Result<(), Error>;
        ),
        quote!(async fn transfer(tx: &mut Transaction<'_>) -> Result<(), Error> = 5;),
        quote!(async fn transfer(tx: &mut Transaction<'_>) -> Result<(), Error> {}, trailing),
        quote!(),
        quote!(
            const unsafe extern "C" fn transfer(tx: &mut Transaction<'_>) -> Result<(), Error> {}
        ),
        quote!(
            struct Transfer;
        ),
        quote!(impl Bank {}),
        quote!(
            const TRANSFER: i64 = 1;
        ),
        quote!(transfer!()),
    ] {
        let expansion = survives(&none, &item).to_string();
        assert!(expansion.contains("compile_error"), "{item} expands to {expansion}");
    }
}

#[test]
fn half_typed_bodies_are_left_alone() {
    for body in [quote!(tx.), quote!(let x =), quote!(tx.query(;)), quote!(Ok(() =>)), quote!(if {}), quote!(#)] {
        let item = quote!(async fn transfer(tx: &mut Transaction<'_>) -> Result<(), Error> { #body });
        let expansion = survives(&TokenStream::new(), &item).to_string();
        assert!(!expansion.contains("compile_error"), "{expansion}");
        assert!(expansion.contains(&body.to_string()), "{expansion}");
    }
}

#[test]
fn faulty_attributes_keep_the_function() {
    for args in [
        quote!(,),
        quote!(=),
        quote!(= 5),
        quote!(5),
        quote!("serializable"),
        quote!(retries),
        quote!(retries =),
        quote!(retries = ,),
        quote!(retries = =),
        quote!(retries == 3),
        quote!(retries = 3 4),
        quote!(retries(3)),
        quote!(retries: 3),
        quote!(retries { 3 }),
        quote!(retries = async move),
        quote!(retry_on = [,]),
        quote!(retry_if = |error|),
        quote!(source = &),
        quote!(crate::retries = 3),
        quote!('a),
        quote!(#[inline]),
    ] {
        let expansion = survives(&args, &transfer());
        let file: syn::File = syn::parse2(expansion).unwrap_or_else(|error| panic!("{args}: {error}"));
        assert!(matches!(file.items[0], syn::Item::Fn(_)), "{args}");
        assert!(file.items.len() > 1, "{args} is accepted");
    }
}

/// The expansion begins with the function, whatever follows.
fn assert_emits(expansion: TokenStream, name: &str) {
    let text = expansion.to_string();
    let file: syn::File = syn::parse2(expansion).unwrap_or_else(|error| panic!("{error}: {text}"));
    let function = file.items.first().and_then(|item| match item {
        syn::Item::Fn(function) => Some(&function.sig.ident),
        _ => None,
    });
    assert!(function.is_some_and(|found| *found == name), "there is no {name}: {text}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tokens_are_survived(args in tokens(), item in tokens()) {
        survives(&args, &item);
        assert_emits(survives(&args, &transfer()), "transfer");
    }

    #[test]
    fn any_tokens_in_a_function_are_survived(attribute in tokens(), parameter in tokens(), output in tokens(), body in tokens()) {
        for parameters in [quote!(#parameter), quote!(tx: &mut Transaction<'_>, #parameter), quote!(#parameter: Transaction)] {
            survives(&options(), &quote!(#[#attribute] async fn transfer(#parameters) -> #output { #body }));
        }
        let item = quote!(async fn transfer(tx: &mut Transaction<'_>) -> Result<(), Error> { #body });
        assert!(survives(&TokenStream::new(), &item).to_string().contains(&body.to_string()));
    }

    #[test]
    fn few_wrong_tokens_are_survived(args in edits(), item in edits()) {
        let (args, item) = (disturb(&options(), &args), disturb(&transfer(), &item));
        survives(&args, &item);
        survives(&options(), &item);
        assert_emits(survives(&args, &transfer()), "transfer");
    }

    #[test]
    fn any_text_is_survived(text in text()) {
        for args in [
            quote!(name = #text), quote!(isolation = #text), quote!(base_delay = #text), quote!(lock_timeout = #text),
            quote!(deadline = #text), quote!(retry_on = [#text]), quote!(unknown_commit = #text), quote!(queue = #text),
        ] {
            assert_emits(survives(&args, &transfer()), "transfer");
        }
    }

    #[test]
    fn durations_are_whole_numbers_with_a_unit(number in 1..10_000_u32, unit in prop::sample::select(&["us", "ms", "s"])) {
        let text = format!("{number}{unit}");
        let expansion = survives(&quote!(deadline = #text), &transfer()).to_string();
        prop_assert!(!expansion.contains("compile_error"), "{}", expansion);
        for wrong in [format!("{number}"), format!("-{text}"), format!("{number}.5{unit}"), format!("{text}{unit}")] {
            let expansion = survives(&quote!(deadline = #wrong), &transfer()).to_string();
            prop_assert!(expansion.contains("compile_error"), "{} is accepted", wrong);
        }
    }

    #[test]
    fn any_names_can_be_used(function in name(), parameter in name(), transaction in name()) {
        prop_assume!(parameter != transaction);
        let [function_name, parameter, transaction] = [&function, &parameter, &transaction].map(|name| ident(name));
        let item = quote! {
            async fn #function_name(#transaction: &mut Transaction<'_>, #parameter: i64) -> Result<i64, Error> {
                Ok(#parameter)
            }
        };
        let expansion = survives(&TokenStream::new(), &item);
        prop_assert!(!expansion.to_string().contains("compile_error"), "{}", expansion);
        assert_emits(expansion, &ident(&function).to_string());
    }
}

/// Tokens that mean something to the macro, and some that do not.
fn alphabet() -> Vec<TokenTree> {
    let alphabet = quote! {
        async fn self tx mut ref impl where const retries source Transaction Result r#type _ 'a # ! & * + - . , : ; < > = ? | 0 5
        1.5 "5ms" "" b'x' true dyn unsafe extern pub crate super dead_code
    };
    alphabet.into_iter().collect()
}

fn tokens() -> impl Strategy<Value = TokenStream> {
    let leaf = prop::sample::select(alphabet()).prop_map(TokenStream::from);
    let delimiters = [Delimiter::Parenthesis, Delimiter::Brace, Delimiter::Bracket, Delimiter::None];
    let tree = leaf.prop_recursive(4, 32, 8, move |inner| {
        (prop::sample::select(delimiters.to_vec()), vec(inner, 0..8))
            .prop_map(|(delimiter, inner)| TokenTree::from(Group::new(delimiter, inner.into_iter().collect())).into())
    });
    vec(tree, 0..12).prop_map(|tokens| tokens.into_iter().collect())
}

/// What happens to a token.
#[derive(Clone, Debug)]
enum Edit {
    Remove,
    Double,
    Replace(TokenStream),
}

/// Edits of the tokens at these places. The places count from the start again if there are fewer tokens.
fn edits() -> impl Strategy<Value = Vec<(usize, Edit)>> {
    let edit = prop_oneof![Just(Edit::Remove), Just(Edit::Double), tokens().prop_map(Edit::Replace)];
    vec((0..1_000_usize, edit), 0..5)
}

fn disturb(tokens: &TokenStream, edits: &[(usize, Edit)]) -> TokenStream {
    let count = count(tokens);
    let edits = edits.iter().map(|(place, edit)| (place % count, edit)).collect();
    edited(tokens, &edits, &mut 0)
}

/// With those in groups.
fn count(tokens: &TokenStream) -> usize {
    let of_token = |token| if let TokenTree::Group(group) = token { 1 + count(&group.stream()) } else { 1 };
    tokens.clone().into_iter().map(of_token).sum()
}

fn edited(tokens: &TokenStream, edits: &BTreeMap<usize, &Edit>, place: &mut usize) -> TokenStream {
    let mut result = TokenStream::new();
    for token in tokens.clone() {
        let edit = edits.get(place);
        *place += 1;
        let token = match token {
            TokenTree::Group(group) => Group::new(group.delimiter(), edited(&group.stream(), edits, place)).into(),
            token => token,
        };
        match edit {
            Some(Edit::Remove) => {}
            Some(Edit::Double) => result.extend([token.clone(), token]),
            Some(Edit::Replace(tokens)) => result.extend(tokens.clone()),
            None => result.extend([token]),
        }
    }
    result
}

/// Any characters, and texts that are nearly right.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[-+]?[0-9]{0,24}[ .,_]?[0-9]{0,3}(ns|us|µs|ms|s|m|min|h|d)?",
        "(read |re)?(committed|peatable read|serializable)s?",
        "[0-9A-Z]{4,6}",
    ]
}

/// A name, also one that is a keyword and has to be raw.
fn name() -> impl Strategy<Value = String> {
    let keywords =
        ["async", "await", "call", "dyn", "match", "source", "tx", "try", "type", "yield"].map(str::to_owned);
    prop_oneof!["[a-z][a-z0-9_]{0,12}", "_[a-z0-9]{1,6}", "[äéλжπ][a-z]{0,4}", prop::sample::select(keywords.to_vec())]
}

fn ident(name: &str) -> Ident {
    syn::parse_str(name).unwrap_or_else(|_| Ident::new_raw(name, Span::call_site()))
}
