//! The annotated function. Its body is never parsed: it keeps its spans, and an editor can complete in a half-typed one.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::parse::{Parse, ParseStream, Parser};
use syn::{AttrStyle, Attribute, Result, Signature, Token, Visibility};

/// A function: attributes, visibility, signature, and the tokens of its body.
pub(crate) struct Item {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    pub(crate) body: Group,
}

impl Parse for Item {
    fn parse(input: ParseStream) -> Result<Self> {
        let mut attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        if input.peek(Token![impl]) || input.peek(Token![trait]) {
            return Err(input.error("expected a function; put `#[transactional]` on each method that needs it"));
        }
        if !starts_function(input) {
            return Err(input.error("expected a function, as in `async fn transfer(tx: &mut Transaction<'_>)`"));
        }
        let sig: Signature = input.parse()?;
        if input.peek(Token![;]) {
            return Err(input.error(
                "expected a body; put `#[transactional]` on the implementation, \
                 and declare the parameter here as `source: impl Into<Source<'_>>`",
            ));
        }
        let fault = input.error("expected the function's body");
        let mut body = braces(input.parse()?).ok_or(fault)?;
        let (inner, stmts) = inner_attributes.parse2(body.stream())?;
        if !inner.is_empty() {
            attrs.extend(inner);
            let span = body.span();
            body = Group::new(body.delimiter(), stmts);
            body.set_span(span);
        }
        Ok(Self { attrs, vis, sig, body })
    }
}

impl ToTokens for Item {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let Self { attrs, vis, sig, body } = self;
        tokens.extend(quote!(#(#attrs)* #vis #sig #body));
    }
}

/// Whether the input starts like a function. A half-typed one then gets the parser's own message.
fn starts_function(input: ParseStream) -> bool {
    let closure = input.peek2(Token![|]) || input.peek2(Token![move]);
    input.peek(Token![const])
        || input.peek(Token![async]) && !closure
        || input.peek(Token![unsafe])
        || input.peek(Token![extern])
        || input.peek(Token![fn])
}

/// The body. If a `macro_rules!` macro passed it on, it is inside an invisible group.
fn braces(token: TokenTree) -> Option<Group> {
    match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(group),
        TokenTree::Group(group) if group.delimiter() == Delimiter::None => braces(group.stream().into_iter().next()?),
        _ => None,
    }
}

/// Splits off the attributes `#![…]` at the start of a body. They belong to the function.
fn inner_attributes(input: ParseStream) -> Result<(Vec<Attribute>, TokenStream)> {
    let mut attrs = input.call(Attribute::parse_inner)?;
    for attr in &mut attrs {
        attr.style = AttrStyle::Outer;
    }
    Ok((attrs, input.parse()?))
}
