//! Writes the retry loop round the body. All logic is the runtime's; this is only the shape.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::visit_mut::{self, VisitMut};
use syn::{FnArg, Lifetime, PatType, Type, parse_quote};

use crate::args::Args;
use crate::error::Errors;
use crate::item::Item;
use crate::validate::{self, Shape};

/// Expands the attribute. Whatever is wrong, the function is still emitted, so that an editor goes on working.
pub(crate) fn expand(args: TokenStream, input: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let args = Args::parse(args, &mut errors);
    let expansion = match syn::parse2::<Item>(input.clone()) {
        Ok(item) => match validate::shape(&item.sig, &args, &mut errors) {
            Some(shape) => function(&args, item, shape),
            None => input,
        },
        Err(error) => {
            errors.push(error);
            input
        }
    };
    let errors = errors.into_tokens();
    quote!(#expansion #errors)
}

// Input:
//     async fn transfer(tx: &mut Transaction<'_>, from: i64) -> Result<(), BankError> { body }
//
// Output:
//     async fn transfer(source: impl Into<Source<'_>>, from: i64) -> Result<(), BankError> {
//         let mut run = Run::new(source.into(), &SITE);
//         loop {
//             let attempt = match run.begin().await {
//                 Ok(mut tx) => { let outcome = async { body }.await; Ok(tx.settle(outcome).await) }
//                 Err(error) => Err(error),
//             };
//             if let Break(result) = run.next(attempt).await { return result; }
//         }
//     }
fn function(args: &Args, item: Item, shape: Shape) -> TokenStream {
    let private = private(args);
    let Item { attrs, vis, body, .. } = item;
    let Shape { mut sig, tx, tx_mut, tx_index, mut output, cloned } = shape;

    let start = if let Some(source) = &args.source {
        quote!(#private::Source::from(#source))
    } else {
        let source = Ident::new("__source", Span::mixed_site());
        let param: FnArg = parse_quote! { #source: impl ::core::convert::Into<#private::Source<'_>> };
        sig.inputs.insert(tx_index, param);
        quote!(::core::convert::Into::into(#source))
    };
    let name = if let Some(name) = &args.name {
        name.to_token_stream()
    } else {
        let ident = sig.ident.unraw().to_string();
        quote!(::core::concat!(::core::module_path!(), "::", #ident))
    };
    let policy = args.policy_fields(&private);
    let retry_if = &args.retry_if.iter().collect::<Vec<_>>();

    let PatType { pat: tx_pat, ty: mut tx_ty, .. } = tx;
    AnonymousLifetimes.visit_type_mut(&mut tx_ty);
    let tx_mut = tx_mut.then(|| quote!(mut));
    InferImplTrait.visit_type_mut(&mut output);

    // Only with a deadline: it wraps the body's future.
    let limit = args.deadline.as_ref().map(|_| quote_spanned!(Span::mixed_site()=> let __limit = __tx.limit();));
    // Locals are invisible to the body: `mixed_site` hygiene.
    let body = quote_spanned! {Span::mixed_site()=>
        async {
            // Never runs. It pins the type that `?` converts to.
            if false {
                let __ret: #output = loop {};
                return __ret;
            }
            #body
        }
    };
    let body = if limit.is_some() { quote_spanned!(Span::mixed_site()=> __limit.body(#body)) } else { body };
    quote_spanned! {Span::mixed_site()=>
        #(#attrs)*
        #vis #sig {
            let mut __run = {
                static __SITE: #private::Site = #private::Site::new(
                    #name,
                    #private::Policy { #policy ..#private::Policy::DEFAULT },
                );
                #private::Run::new(#start, &__SITE)
            };
            #[allow(unreachable_code, unused_braces)]
            loop {
                let __ended = match __run.begin().await {
                    ::core::result::Result::Ok(#tx_mut __tx) => {
                        #(let mut #cloned = ::core::clone::Clone::clone(&#cloned);)*
                        #limit
                        let __outcome: #output = {
                            let #tx_pat: #tx_ty = &#tx_mut __tx;
                            #body.await
                        };
                        let __seen = #private::seen!(&__outcome #(, #retry_if)*);
                        ::core::result::Result::Ok(__tx.settle(__outcome, __seen).await)
                    }
                    ::core::result::Result::Err(__error) => ::core::result::Result::Err(__error),
                };
                if let ::core::ops::ControlFlow::Break(__result) = __run.next(__ended).await {
                    return __result;
                }
            }
        }
    }
}

/// The module that the expansion names.
fn private(args: &Args) -> TokenStream {
    if let Some(path) = &args.krate { quote!(#path::__private) } else { quote!(::retry_runtime::__private) }
}

/// Replaces every lifetime by `'_`: the transaction lives as long as its attempt.
struct AnonymousLifetimes;

impl VisitMut for AnonymousLifetimes {
    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        lifetime.ident = Ident::new("_", lifetime.ident.span());
    }
}

/// Replaces `impl Trait`, which a `let` cannot name, by `_`.
struct InferImplTrait;

impl VisitMut for InferImplTrait {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        if let Type::ImplTrait(_) = ty {
            *ty = parse_quote!(_);
        } else {
            visit_mut::visit_type_mut(self, ty);
        }
    }
}
