//! The expansion: a retry loop around the body. The runtime makes every decision.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::visit_mut::{self, VisitMut};
use syn::{
    CapturedParam, Expr, Lifetime, Pat, PatIdent, PatType, PathArguments, PathSegment, PreciseCapture, Signature, Type,
    TypePath, parse_quote, parse_quote_spanned,
};

use crate::args::Args;
use crate::choice::Queue;
use crate::document;
use crate::error::Errors;
use crate::item::Item;
use crate::parse::parse;
use crate::validate::{self, Cloned, Shape};

/// Expands the attribute. Emits the function even after errors, so that editors keep working in it.
pub(crate) fn expand(args: TokenStream, input: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let mut args = parse(args, &mut errors);
    let function = syn::parse2::<Item>(input.clone()).map(|mut item| {
        validate::attributes(&mut item, &mut errors);
        let function = match validate::shape(&mut item.sig, &args, &mut errors) {
            Some(shape) => match validate::twin(&item.sig, &args, &mut errors) {
                Some(name) => with_twin(&mut args, &mut item, shape, name),
                None => function(&args, &item, shape, None),
            },
            None => item.to_token_stream(),
        };
        // Avoids rustc's second error, that `main` may not be async.
        if validate::is_main(&item.sig) { quote!(fn main() { #[allow(dead_code)] #function }) } else { function }
    });
    let function = function.unwrap_or_else(|error| {
        errors.push(error);
        // In expression position only one expression fits: the error.
        if syn::parse2::<Expr>(input.clone()).is_ok() { TokenStream::new() } else { input }
    });
    let errors = errors.into_tokens();
    quote!(#function #errors)
}

// Input:
//     async fn transfer(tx: &mut Transaction<'_>, from: i64) -> Result<(), BankError> { body }
//
// Output:
//     async fn transfer(source: impl Into<Source<'_>>, from: i64) -> Result<(), BankError> {
//         let mut call = Call::new(source.into(), &CALLSITE);
//         loop {
//             let attempt = match call.begin().await {
//                 Ok(mut tx) => {
//                     let scope = tx.scope();
//                     let lent = &mut tx;
//                     let outcome = scope.body(async { let tx = lend(lent); body }).await;
//                     let body_error = body_error!(tx, &outcome);
//                     Ok(tx.finish(outcome, body_error).await)
//                 }
//                 Err(error) => Err(error),
//             };
//             if let Break(result) = call.next(attempt).await { return result; }
//         }
//     }
//
// `shared` is the callsite, if the function shares one with its twin.
fn function(args: &Args, item: &Item, shape: Shape, shared: Option<&TokenStream>) -> TokenStream {
    let Item { attrs, vis, body, .. } = item;
    let Shape { mut sig, tx, mut output, cloned } = shape;
    let PatType { attrs: tx_attrs, pat: tx_pat, ty: mut tx_ty, .. } = tx;
    let span = Span::mixed_site();
    let private = &private(args);

    let source = Ident::new("source", args.source.as_ref().map_or(span, at));
    let let_source = if let Some(expr) = &args.source {
        // A `let` of its own, so that temporaries in the expression live as long as the call.
        quote_spanned!(span=> let #source = #expr;)
    } else {
        let ty = source_type(private, &mut sig, at(&tx_ty));
        sig.inputs.insert(usize::from(sig.receiver().is_some()), parse_quote!(#source: #ty));
        TokenStream::new()
    };
    let queue_by = args.queue_by.as_ref().map(|keys| {
        let in_server = args.queue.as_ref().is_some_and(|queue| queue.value == Queue::Server);
        let of = Ident::new(if in_server { "in_server" } else { "of" }, span);
        let keys = keys.iter().map(|key| {
            let key = quote_spanned!(at(key)=> &(#key));
            quote_spanned!(span=> #private::QueueKey::#of(#key))
        });
        quote_spanned!(span=> .queue_by([#(#keys),*]))
    });
    let own_callsite = shared.is_none().then(|| callsite(args, &sig.ident));
    let callsite = shared.cloned().unwrap_or_else(|| quote_spanned!(span=> &__CALLSITE));
    let retry_if = args.retry_if.iter();

    let cloned = cloned.iter().map(|Cloned { attrs, mutability, ident }| {
        quote_spanned!(at(ident)=> #(#attrs)* let #mutability #ident = ::core::clone::Clone::clone(&#ident);)
    });

    // If a body keeps its transaction for longer than the attempt, rustc reports several errors, sorted by their spans.
    // With these spans, the error at the parameter comes first, and those about the loop last.
    let end = span.located_at(body.span_close());
    let tx = name_of(&tx_pat);
    let binding = quote_spanned!(tx.span()=> mut #tx);
    let borrow = quote_spanned!(tx.span()=> &mut #tx);
    let begin = quote_spanned!(end=> __call.begin().await);
    let mut last = tx.clone();
    last.set_span(tx.span().located_at(end));

    AnonymousLifetimes.visit_type_mut(&mut tx_ty);
    let lend = over(&tx_ty, quote_spanned!(span=> #private::lend(__lent)));
    InferImplTrait.visit_type_mut(&mut output);
    let in_body = span.located_at(body.span_open());
    let run_body = quote_spanned! {in_body=>
        async {
            // Never runs. It tells the compiler the type that `?` converts to.
            #[allow(unreachable_code)]
            if false {
                let __ret: #output = loop {};
                return __ret;
            }
            #(#cloned)*
            #(#tx_attrs)*
            let #tx_pat: #tx_ty = #lend;
            #body
        }
    };
    let error = error_of(&output);
    let [bounded_by, followed_by] = asking_for_from(&error, &sig);
    let error = first(error);
    let outcome_of = if let Type::Tuple(_) = output {
        // Not a `Result`. `Outcome` below reports that, once.
        quote_spanned!(span=> #run_body.await)
    } else {
        quote_spanned!(at(&error)=> __scope.#bounded_by(#run_body).await)
    };

    // All requirements on the return type have one span, so that rustc reports one error.
    let result = first(&output);
    let outcome = over(&result, quote_spanned!(span=> __outcome));
    let into_result = over(&result, quote_spanned!(span=> #private::Outcome::into_result(#outcome)));
    let from_result = over(&result, quote_spanned!(span=> #private::Outcome::from_result(__result)));
    let finish = quote_spanned!(at(&error)=> #last.finish(__outcome, __body_error).await);
    let next = quote_spanned!(at(&error)=> __call.#followed_by(__attempt).await);

    let attempt = quote_spanned! {span=>
        let __scope = #tx.scope();
        let __lent = #borrow;
        #[allow(unused_braces)]
        let #outcome: #output = #outcome_of;
        let #outcome = #into_result;
        let __body_error = #private::body_error!(#last, &#outcome #(, #retry_if)*);
        ::core::result::Result::Ok(#finish)
    };
    let attempt = braces(attempt, end);

    // Locals are invisible to the body: `mixed_site` hygiene.
    let call = quote_spanned! {span=>
        #let_source
        let mut __call = {
            #own_callsite
            #private::Call::new(::core::convert::Into::into(#source), #callsite) #queue_by
        };
        loop {
            let __attempt = match #begin {
                ::core::result::Result::Ok(#binding) => #attempt
                ::core::result::Result::Err(__error) => ::core::result::Result::Err(__error),
            };
            if let ::core::ops::ControlFlow::Break(__result) = #next {
                return #from_result;
            }
        }
    };
    // Has the span of the body's braces: with a macro's, rustc would not warn about an unused function.
    let call = braces(call, body.span());
    let documented = document::section(args, item);
    quote!(#(#attrs)* #documented #vis #sig #call)
}

/// The function, and its twin called `name`, which takes a source. The body is in both: a call of the twin could not pass
/// on every form of parameter, nor a `self` that the source borrows from.
fn with_twin(args: &mut Args, item: &mut Item, mut shape: Shape, name: Ident) -> TokenStream {
    let span = at(&name);
    let private = private(args);
    let callsite = callsite(args, &item.sig.ident);
    // A function, because an `impl` has no `static`. The macro does not see whether a function without `self` is in one.
    let shared = format_ident!("__{name}_callsite", span = span);
    let of_self = item.sig.receiver().map(|_| quote_spanned!(span=> Self::));
    let call = quote_spanned!(span=> #of_self #shared());
    let plain = function(args, item, shape.clone(), Some(&call));

    let link = of_self.map_or_else(String::new, |_| "Self::".to_owned());
    let text = format!(
        " The twin of [`{0}`]({link}{0}) that takes a source: `&mut *tx`, in which the call is nested, a pool or a client.",
        item.sig.ident
    );
    item.attrs.retain(|attr| !attr.path().is_ident("doc"));
    item.attrs.extend([parse_quote!(#[doc = #text]), parse_quote!(#[allow(dead_code)])]);
    args.source = None;
    shape.sig.ident = name;
    let twin = function(args, item, shape, Some(&call));
    quote_spanned! {span=>
        #plain
        #twin
        #[doc(hidden)]
        #[allow(dead_code)]
        fn #shared() -> &'static #private::Callsite {
            #callsite
            &__CALLSITE
        }
    }
}

/// Declares the `static` that stands for the function called `ident`.
fn callsite(args: &Args, ident: &Ident) -> TokenStream {
    let private = &private(args);
    let name = if let Some(name) = &args.name {
        name.to_token_stream()
    } else {
        let ident = ident.unraw().to_string();
        quote!(::core::concat!(::core::module_path!(), "::", #ident))
    };
    let policy = args.policy(private);
    quote_spanned! {Span::mixed_site()=>
        #[allow(clippy::needless_update)]
        static __CALLSITE: #private::Callsite = #private::Callsite::new(#name, #policy);
    }
}

/// The path of `retry_runtime::__private`.
fn private(args: &Args) -> TokenStream {
    let span = Span::mixed_site();
    let runtime = args.krate.as_ref().map_or_else(|| quote_spanned!(span=> ::retry_runtime), ToTokens::to_token_stream);
    quote_spanned!(span=> #runtime::__private)
}

/// The name of the attempt's transaction: the parameter's, for rustc's messages. The body's own binding shadows it.
fn name_of(tx: &Pat) -> Ident {
    match tx {
        Pat::Ident(PatIdent { ident, .. }) if !ident.to_string().starts_with('_') => ident.clone(),
        _ => Ident::new("__tx", Span::mixed_site()),
    }
}

/// The type of the parameter that replaces the transaction. If the return type has a `use<…>`, the parameter needs a named
/// type to be listed there.
fn source_type(private: &TokenStream, sig: &mut Signature, span: Span) -> Type {
    let name = quote_spanned!(span=> __Source);
    let mut captures = Captures { param: parse_quote!(#name), found: false };
    captures.visit_return_type_mut(&mut sig.output);
    if !captures.found {
        return parse_quote_spanned!(span=> impl ::core::convert::Into<#private::Source<'_>>);
    }
    let lifetime = Lifetime::new("'__source", span);
    sig.generics.params.push(parse_quote!(#lifetime));
    sig.generics.params.push(parse_quote!(#name: ::core::convert::Into<#private::Source<#lifetime>>));
    parse_quote!(#name)
}

/// A block.
fn braces(tokens: TokenStream, span: Span) -> Group {
    let mut block = Group::new(Delimiter::Brace, tokens);
    block.set_span(span);
    block
}

/// The place of the first token, with the hygiene of the expansion.
fn at(tokens: impl ToTokens) -> Span {
    let place = tokens.into_token_stream().into_iter().next().map_or_else(Span::call_site, |token| token.span());
    Span::mixed_site().located_at(place)
}

/// Gives `call` the place of `tokens`, from the first to the last: errors in the call are reported there.
fn over(tokens: impl ToTokens, call: TokenStream) -> TokenStream {
    let places: Vec<Span> = tokens.into_token_stream().into_iter().map(|token| token.span()).collect();
    let place = |index: usize| if index == 0 { places.first() } else { places.last() };
    let put = |(index, mut token): (usize, TokenTree)| {
        let span = token.span();
        token.set_span(span.located_at(*place(index).unwrap_or(&span)));
        token
    };
    call.into_iter().enumerate().map(put).collect()
}

/// The first token.
fn first(tokens: impl ToTokens) -> TokenStream {
    tokens.into_token_stream().into_iter().take(1).collect()
}

/// The `E` in `Result<T, E>`; the whole type if it is written in another form.
fn error_of(output: &Type) -> TokenStream {
    if let Type::Path(TypePath { path, .. }) = output {
        if let Some(PathSegment { arguments: PathArguments::AngleBracketed(generics), .. }) = path.segments.last() {
            if let (2, Some(error)) = (generics.args.len(), generics.args.last()) {
                return error.to_token_stream();
            }
        }
    }
    output.to_token_stream()
}

/// The names of the methods that run the body and follow it. For an error that is a type parameter, they require
/// `From<Error>` itself, so that rustc suggests the bound.
fn asking_for_from(error: &TokenStream, sig: &Signature) -> [Ident; 2] {
    let param = syn::parse2::<Ident>(error.clone()).ok();
    let is_param = param.is_some_and(|error| sig.generics.type_params().any(|param| param.ident == error));
    let names = if is_param { ["body_from", "next_from"] } else { ["body", "next"] };
    names.map(|name| Ident::new(name, at(error)))
}

/// Adds a parameter to every `use<…>`.
struct Captures {
    param: CapturedParam,
    found: bool,
}

impl VisitMut for Captures {
    fn visit_precise_capture_mut(&mut self, capture: &mut PreciseCapture) {
        capture.params.push(self.param.clone());
        self.found = true;
    }
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
