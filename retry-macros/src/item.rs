//! The annotated function. Its body is an opaque group of tokens: never parsed, so that it keeps
//! rustc's spans, and an editor can complete inside a half-typed one.

use proc_macro2::{Group, TokenStream};
use syn::parse::{Parse, ParseStream, Parser};
use syn::{Attribute, Result, Signature, Token, Visibility, token};

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
        let sig: Signature = input.parse()?;
        if input.peek(Token![;]) {
            return Err(input.error("expected a function with a body; put `#[transactional]` on the implementation"));
        }
        if !input.peek(token::Brace) {
            return Err(input.error("expected the function's body"));
        }
        let group: Group = input.parse()?;
        let (inner, stmts) = inner_attributes.parse2(group.stream())?;
        attrs.extend(inner);
        let mut body = Group::new(group.delimiter(), stmts);
        body.set_span(group.span());
        Ok(Self { attrs, vis, sig, body })
    }
}

/// Splits off the attributes `#![…]` at the start of a body: they belong to the function, not to the block in it.
fn inner_attributes(input: ParseStream) -> Result<(Vec<Attribute>, TokenStream)> {
    let mut attrs = input.call(Attribute::parse_inner)?;
    for attr in &mut attrs {
        attr.style = syn::AttrStyle::Outer;
    }
    Ok((attrs, input.parse()?))
}
