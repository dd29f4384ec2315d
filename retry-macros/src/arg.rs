//! One argument of the attribute, as tokens: `key` or `key = value`.

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::{Expr, Result, Token, token};

/// `key` or `key = value`.
pub(crate) struct Arg {
    pub(crate) key: Ident,
    pub(crate) value: Value,
}

pub(crate) enum Value {
    None,
    Expr(Expr),
    /// Tokens that are no value, as in `key(5)` or `key: 5`.
    Other(TokenStream),
}

impl Arg {
    pub(crate) fn parse(input: ParseStream) -> Result<Self> {
        if !input.peek(Ident::peek_any) {
            return Err(input.error("expected an option, as in `retries = 3`"));
        }
        let key = input.call(Ident::parse_any)?;
        let value = if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            if input.is_empty() || input.peek(Token![,]) { Value::None } else { Value::Expr(ungroup(input.parse()?)) }
        } else if input.peek(Token![:]) || input.peek(token::Paren) {
            Value::Other(rest(input)?)
        } else {
            Value::None
        };
        Ok(Self { key, value })
    }
}

/// The tokens up to the next comma.
fn rest(input: ParseStream) -> Result<TokenStream> {
    let mut tokens = TokenStream::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        tokens.extend([input.parse::<TokenTree>()?]);
    }
    Ok(tokens)
}

/// Skips everything up to and including the next comma.
pub(crate) fn skip_comma(input: ParseStream) -> Result<()> {
    rest(input)?;
    input.parse::<Option<Token![,]>>()?;
    Ok(())
}

/// Removes the invisible group that a `macro_rules!` macro puts around an argument.
pub(crate) fn ungroup(mut expr: Expr) -> Expr {
    while let Expr::Group(group) = expr {
        expr = *group.expr;
    }
    expr
}
