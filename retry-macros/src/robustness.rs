//! Tests with broken input: the macro returns tokens for any tokens, and never panics.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
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

#[test]
fn random_tokens() {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    for _ in 0..1_000 {
        let args = random.disturb(options());
        let item = random.disturb(transfer());
        survives(&args, &item);
        survives(&options(), &item);
        let expansion = survives(&args, &transfer());
        let file: syn::File = syn::parse2(expansion).unwrap_or_else(|error| panic!("{args}: {error}"));
        assert!(matches!(file.items[0], syn::Item::Fn(_)), "{args}");
    }
}

/// A xorshift generator: the same tokens on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or_default() % bound
    }

    /// Drops, doubles or replaces about one token in sixteen, at any depth.
    fn disturb(&mut self, tokens: TokenStream) -> TokenStream {
        let mut disturbed = Vec::new();
        for token in tokens {
            let token = match token {
                TokenTree::Group(group) => Group::new(group.delimiter(), self.disturb(group.stream())).into(),
                token => token,
            };
            match self.below(48) {
                0 => {}
                1 => disturbed.extend([token.clone(), token]),
                2 => disturbed.push(self.token()),
                _ => disturbed.push(token),
            }
        }
        disturbed.into_iter().collect()
    }

    fn token(&mut self) -> TokenTree {
        let alphabet = quote! {
            async fn self tx mut ref impl where const retries source Transaction r#type _ 'a # ! & * + - . , : ; < > = ? | 0 5 1.5
            "5ms" "" b'x' () {} [] (,) {;}
        };
        let mut tokens: Vec<TokenTree> = alphabet.into_iter().collect();
        let invisible = Group::new(Delimiter::None, quote!(&mut Transaction<'_>));
        tokens.push(invisible.into());
        tokens.swap_remove(self.below(tokens.len()))
    }
}
