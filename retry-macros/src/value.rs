//! The values of options: each parsed from an expression and checked while compiling.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::{Error, Expr, ExprLit, ExprPath, Lit, LitStr, Path, Result};

/// Without the invisible parentheses round what a `macro_rules!` macro was given.
pub(crate) fn ungroup(mut expr: Expr) -> Expr {
    while let Expr::Group(group) = expr {
        expr = *group.expr;
    }
    expr
}

/// A number of retries: a literal, or the path of a `u32` constant.
pub(crate) enum Count {
    Literal(u32),
    Path(ExprPath),
}

impl Count {
    pub(crate) fn parse(key: &str, value: &Expr) -> Result<Self> {
        const RANGE: &str = "expected a number from 0 to 4294967295";
        match value {
            Expr::Lit(ExprLit { lit: Lit::Int(int), .. }) if matches!(int.suffix(), "" | "u32") => {
                int.base10_parse().map(Self::Literal).map_err(|_| Error::new_spanned(value, RANGE))
            }
            Expr::Unary(_) => Err(Error::new_spanned(value, RANGE)),
            Expr::Path(path) => Ok(Self::Path(path.clone())),
            _ => Err(Error::new_spanned(
                value,
                format!("expected an integer, as in `{key} = 3`, or the path of a `u32` constant"),
            )),
        }
    }
}

impl Count {
    /// A number of things that there has to be one of.
    pub(crate) fn parse_from_one(key: &str, value: &Expr) -> Result<Self> {
        match Self::parse(key, value)? {
            Self::Literal(0) => Err(Error::new_spanned(
                value,
                "expected a number from 1; to run calls one at a time from the first attempt on, write `queue_by = ()`",
            )),
            count => Ok(count),
        }
    }
}

impl ToTokens for Count {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match self {
            Self::Literal(count) => proc_macro2::Literal::u32_unsuffixed(*count).to_tokens(tokens),
            Self::Path(path) => path.to_tokens(tokens),
        }
    }
}

/// A span of time: a literal, or the path of a `Duration` constant.
pub(crate) enum Time {
    Literal { micros: u64, token: LitStr },
    Path(ExprPath),
}

impl Time {
    pub(crate) fn parse(key: &str, value: &Expr) -> Result<Self> {
        match value {
            Expr::Lit(ExprLit { lit: Lit::Str(token), .. }) => match micros(&token.value()) {
                Ok(micros) => Ok(Self::Literal { micros, token: token.clone() }),
                Err(message) => Err(Error::new_spanned(token, message)),
            },
            Expr::Path(path) => Ok(Self::Path(path.clone())),
            _ => Err(Error::new_spanned(
                value,
                format!("expected a duration, as in `{key} = \"5ms\"`, or the path of a `Duration` constant"),
            )),
        }
    }

    /// A time limit that the server keeps: whole milliseconds, at most `i32::MAX` of them.
    pub(crate) fn parse_timeout(key: &str, value: &Expr) -> Result<Self> {
        let time = Self::parse(key, value)?;
        match &time {
            Self::Literal { micros, token } if *micros < 1_000 => {
                Err(Error::new_spanned(token, "the server counts in milliseconds; the shortest timeout is `\"1ms\"`"))
            }
            Self::Literal { micros, token } if micros.div_ceil(1_000) > i32::MAX.unsigned_abs().into() => {
                Err(Error::new_spanned(token, "the server's longest timeout is `\"2147483647ms\"`"))
            }
            _ => Ok(time),
        }
    }

    pub(crate) fn expand(&self) -> TokenStream {
        match self {
            Self::Literal { micros, .. } => quote!(::core::time::Duration::from_micros(#micros)),
            Self::Path(path) => path.to_token_stream(),
        }
    }
}

/// The number of microseconds that a literal such as `"5ms"` stands for.
fn micros(text: &str) -> std::result::Result<u64, String> {
    const UNITS: [(&str, u64); 4] = [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000)];
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("expected a duration: digits and a unit (`us`, `ms`, `s`, `m`), as in `\"5ms\"`".into());
    }
    let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(match unit {
            "" => format!("expected a unit after the number: `us`, `ms`, `s` or `m`, as in `\"{number}ms\"`"),
            _ => format!("unknown unit `{unit}`; the units are `us`, `ms`, `s` and `m`"),
        });
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)) {
        Some(0) => Err("expected a duration longer than zero".into()),
        Some(micros) => Ok(micros),
        None => Err("this duration is too long".into()),
    }
}

/// One of a fixed set of words, each with the name of its variant.
pub(crate) fn word<'a>(value: &Expr, words: &[(&'a str, &'a str)]) -> Result<Ident> {
    let list = || words.iter().map(|(word, _)| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ");
    let Expr::Lit(ExprLit { lit: Lit::Str(token), .. }) = value else {
        return Err(Error::new_spanned(value, format!("expected one of {}", list())));
    };
    match words.iter().find(|(word, _)| *word == token.value()) {
        Some((_, variant)) => Ok(Ident::new(variant, token.span())),
        None => Err(Error::new_spanned(token, format!("expected one of {}", list()))),
    }
}

/// A list of SQLSTATEs, each five of `0-9A-Z`.
pub(crate) fn sqlstates(value: &Expr) -> Result<Vec<LitStr>> {
    const EXPECTED: &str = "expected a list of SQLSTATEs, as in `retry_on = [\"23505\"]`";
    let Expr::Array(array) = value else {
        return Err(Error::new_spanned(value, EXPECTED));
    };
    if array.elems.is_empty() {
        return Err(Error::new_spanned(value, EXPECTED));
    }
    let mut codes: Vec<LitStr> = Vec::new();
    let mut errors: Option<Error> = None;
    for element in array.elems.iter().cloned().map(ungroup) {
        let fault = match &element {
            Expr::Lit(ExprLit { lit: Lit::Str(code), .. }) if is_retried_anyway(&code.value()) => {
                format!("`{}` is retried anyway, on `deadlock_retries`", code.value())
            }
            Expr::Lit(ExprLit { lit: Lit::Str(code), .. }) if code.value() == "25P02" => {
                "`25P02` only says that an earlier statement failed: name that failure's SQLSTATE".to_owned()
            }
            Expr::Lit(ExprLit { lit: Lit::Str(code), .. }) if is_sqlstate(&code.value()) => {
                if codes.iter().all(|known| known.value() != code.value()) {
                    codes.push(code.clone());
                    continue;
                }
                format!("SQLSTATE `{}` given more than once", code.value())
            }
            _ => "expected an SQLSTATE: five characters of `0-9A-Z`, as in `\"23505\"`".to_owned(),
        };
        let error = Error::new_spanned(element, fault);
        match &mut errors {
            Some(errors) => errors.combine(error),
            None => errors = Some(error),
        }
    }
    errors.map_or(Ok(codes), Err)
}

fn is_sqlstate(code: &str) -> bool {
    code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
}

/// One key, or a list of them.
pub(crate) fn keys(value: &Expr) -> Result<Vec<Expr>> {
    match value {
        Expr::Array(array) if array.elems.is_empty() => {
            Err(Error::new_spanned(value, "expected a key, as in `queue_by = id` or `queue_by = [from, to]`"))
        }
        Expr::Array(array) => Ok(array.elems.iter().cloned().collect()),
        _ => Ok(vec![value.clone()]),
    }
}

/// Whether an SQLSTATE is a lost conflict in any case.
fn is_retried_anyway(code: &str) -> bool {
    matches!(code, "40001" | "40P01" | "55P03" | "55006")
}

/// A function to call with the body's error: a path or a closure.
pub(crate) fn callable(key: &str, value: &Expr) -> Result<Expr> {
    match value {
        Expr::Path(_) | Expr::Closure(_) => Ok(value.clone()),
        _ => Err(Error::new_spanned(
            value,
            format!("expected a function or a closure, as in `{key} = |error| error.is_stale()`"),
        )),
    }
}

/// A non-empty string literal.
pub(crate) fn text(key: &str, value: &Expr) -> Result<LitStr> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if !text.value().is_empty() => Ok(text.clone()),
        _ => Err(Error::new_spanned(value, format!("expected a name, as in `{key} = \"transfer\"`"))),
    }
}

/// The path of a crate or module.
pub(crate) fn path(key: &str, value: &Expr) -> Result<Path> {
    match value {
        Expr::Path(ExprPath { qself: None, path, .. }) => Ok(path.clone()),
        _ => Err(Error::new_spanned(value, format!("expected a path, as in `{key} = ::retry_runtime`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::micros;

    #[test]
    fn durations() {
        assert_eq!(micros("250us"), Ok(250));
        assert_eq!(micros("5ms"), Ok(5_000));
        assert_eq!(micros("1s"), Ok(1_000_000));
        assert_eq!(micros("2m"), Ok(120_000_000));
        for (text, fault) in [
            ("", "expected a duration: digits"),
            ("ms", "expected a duration: digits"),
            ("-5ms", "expected a duration: digits"),
            ("5", "expected a unit"),
            ("5 ms", "unknown unit ` ms`"),
            ("5h", "unknown unit `h`"),
            ("1.5s", "unknown unit `.5s`"),
            ("0ms", "longer than zero"),
            ("18446744073709551615s", "too long"),
            ("99999999999999999999us", "too long"),
        ] {
            let message = micros(text).expect_err(text);
            assert!(message.contains(fault), "{text}: {message}");
        }
    }
}
