//! Readers of option values: counts, durations, SQLSTATEs, keys and others, checked at compile time.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::{Expr, ExprLit, ExprPath, Lit, LitStr, Path};

use crate::arg::{Arg, Value, ungroup};
use crate::error::Errors;

impl Arg {
    /// The value, if there is one.
    fn expr(&self) -> Option<&Expr> {
        match &self.value {
            Value::Expr(value) => Some(value),
            Value::None | Value::Other(_) => None,
        }
    }

    /// The value, if it is a string.
    pub(crate) fn string(&self) -> Option<&LitStr> {
        self.expr().and_then(string)
    }

    /// Refuses the value, or the lack of one.
    fn expected<T>(&self, errors: &mut Errors, what: &str, example: &str) -> Option<T> {
        errors.refuse(self, format_args!("expected {what}, as in `{} = {example}`", self.key))
    }
}

/// The tokens to report an error at: the value, or the key if there is none.
impl ToTokens for Arg {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match &self.value {
            Value::Expr(value) => value.to_tokens(tokens),
            Value::Other(other) => other.to_tokens(tokens),
            Value::None => self.key.to_tokens(tokens),
        }
    }
}

/// The string literal, if the expression is one.
fn string(value: &Expr) -> Option<&LitStr> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text),
        _ => None,
    }
}

/// A value that becomes a field of the runtime's `Policy`.
pub(crate) trait PolicyField {
    /// The value as an expression. `private` is the path of the runtime's types.
    fn to_field(&self, private: &TokenStream) -> TokenStream;
}

/// An option without a value, such as `read_only`. It is on if the attribute has it.
pub(crate) struct Flag {
    pub(crate) key: Ident,
}

impl Flag {
    /// With a value it is an error, and on unless the value is `false`: so the error leads to no others.
    pub(crate) fn read(arg: &Arg, errors: &mut Errors) -> Option<Self> {
        if !matches!(arg.value, Value::None) {
            errors.at(arg, format_args!("`{}` takes no value; remove the option to turn it off", arg.key));
        }
        let off = matches!(arg.expr(), Some(Expr::Lit(ExprLit { lit: Lit::Bool(on), .. })) if !on.value);
        (!off).then(|| Self { key: arg.key.clone() })
    }
}

impl PolicyField for Flag {
    fn to_field(&self, _private: &TokenStream) -> TokenStream {
        quote!(true)
    }
}

/// A number of retries: a literal, or the path of a `u32` constant.
pub(crate) enum Count {
    Literal(u32),
    Path(ExprPath),
}

impl Count {
    pub(crate) fn read(arg: &Arg, errors: &mut Errors) -> Option<Self> {
        const RANGE: &str = "expected a number from 0 to 4294967295";
        match arg.expr() {
            Some(Expr::Path(path)) => Some(Self::Path(path.clone())),
            Some(Expr::Lit(ExprLit { lit: Lit::Int(int), .. })) if matches!(int.suffix(), "" | "u32") => {
                int.base10_parse().map(Self::Literal).ok().or_else(|| errors.refuse(arg, RANGE))
            }
            Some(Expr::Unary(_)) => errors.refuse(arg, RANGE),
            _ => arg.expected(errors, "an integer or the path of a `u32` constant", "3"),
        }
    }

    /// A count of at least 1.
    pub(crate) fn read_from_one(arg: &Arg, errors: &mut Errors) -> Option<Self> {
        match Self::read(arg, errors)? {
            Self::Literal(0) => errors.refuse(
                arg,
                "expected a number of at least 1; to run calls one at a time from the first attempt, write `queue_by = ()`",
            ),
            count => Some(count),
        }
    }
}

impl PolicyField for Count {
    fn to_field(&self, _private: &TokenStream) -> TokenStream {
        match self {
            Self::Literal(count) => proc_macro2::Literal::u32_unsuffixed(*count).to_token_stream(),
            Self::Path(path) => path.to_token_stream(),
        }
    }
}

/// A duration: a literal such as `"5ms"`, or the path of a `Duration` constant.
pub(crate) enum Time {
    Literal { micros: u64, token: LitStr },
    Path(ExprPath),
}

impl Time {
    pub(crate) fn read(arg: &Arg, errors: &mut Errors) -> Option<Self> {
        match arg.expr() {
            Some(Expr::Lit(ExprLit { lit: Lit::Str(token), .. })) => match micros(&token.value()) {
                Ok(micros) => Some(Self::Literal { micros, token: token.clone() }),
                Err(message) => errors.refuse(token, message),
            },
            Some(Expr::Path(path)) => Some(Self::Path(path.clone())),
            _ => arg.expected(errors, "a duration or the path of a `Duration` constant", "\"5ms\""),
        }
    }

    /// A timeout that the server enforces: at least 1 ms and at most `i32::MAX` ms.
    pub(crate) fn read_timeout(arg: &Arg, errors: &mut Errors) -> Option<Self> {
        match Self::read(arg, errors)? {
            Self::Literal { micros, token } if micros < 1_000 => {
                errors.refuse(token, "the server counts in milliseconds; the shortest timeout is `\"1ms\"`")
            }
            Self::Literal { micros, token } if micros.div_ceil(1_000) > i32::MAX.unsigned_abs().into() => {
                errors.refuse(token, "the server's longest timeout is `\"2147483647ms\"`")
            }
            time => Some(time),
        }
    }
}

impl PolicyField for Time {
    fn to_field(&self, _private: &TokenStream) -> TokenStream {
        match self {
            Self::Literal { micros, .. } => quote!(::core::time::Duration::from_micros(#micros)),
            Self::Path(path) => path.to_token_stream(),
        }
    }
}

/// The number of microseconds that a literal such as `"5ms"` stands for.
fn micros(text: &str) -> std::result::Result<u64, String> {
    // Unicode has two characters for the micro sign.
    const UNITS: [(&str, u64); 6] =
        [("us", 1), ("\u{b5}s", 1), ("\u{3bc}s", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000)];
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    if number.is_empty() {
        return Err("expected a duration: digits and a unit (`us`, `ms`, `s`, `m`), as in `\"5ms\"`".into());
    }
    let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(match unit {
            "" => format!("expected a unit after the number: `us`, `ms`, `s` or `m`, as in `\"{number}ms\"`"),
            _ if unit.starts_with('.') => "expected a whole number; use a smaller unit, as in `\"1500ms\"`".into(),
            _ => format!("unknown unit `{unit}`; the units are `us`, `ms`, `s` and `m`"),
        });
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)) {
        Some(0) => Err("expected a duration longer than zero".into()),
        Some(micros) => Ok(micros),
        None => Err("this duration is too long".into()),
    }
}

impl PolicyField for Vec<LitStr> {
    fn to_field(&self, _private: &TokenStream) -> TokenStream {
        let codes = self;
        quote!(&[#(#codes),*])
    }
}

/// A list of SQLSTATEs: five characters of `0-9A-Z` each.
pub(crate) fn sqlstates(arg: &Arg, errors: &mut Errors) -> Option<Vec<LitStr>> {
    let elements = match arg.expr() {
        Some(Expr::Array(array)) if !array.elems.is_empty() => &array.elems,
        _ => return arg.expected(errors, "a list of SQLSTATEs", "[\"23505\"]"),
    };
    let mut codes: Vec<LitStr> = Vec::new();
    for element in elements.iter().cloned().map(ungroup) {
        let code = string(&element);
        let fault = match code.map(LitStr::value).unwrap_or_default().as_str() {
            code @ ("40001" | "40P01" | "55P03" | "55006") => {
                format!("`{code}` is already retried, and uses `deadlock_retries`; remove it")
            }
            "25P02" => {
                "`25P02` only means that an earlier statement failed; list the SQLSTATE of that failure".to_owned()
            }
            text if !is_sqlstate(text) => {
                "expected an SQLSTATE: five characters of `0-9A-Z`, as in `\"23505\"`".to_owned()
            }
            text if codes.iter().any(|known| known.value() == text) => {
                format!("SQLSTATE `{text}` given more than once")
            }
            _ => {
                codes.extend(code.cloned());
                continue;
            }
        };
        errors.at(element, fault);
    }
    (!codes.is_empty()).then_some(codes)
}

fn is_sqlstate(code: &str) -> bool {
    code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
}

/// One key, or a list of them.
pub(crate) fn keys(arg: &Arg, errors: &mut Errors) -> Option<Vec<Expr>> {
    let keys: Vec<Expr> = match arg.expr() {
        Some(Expr::Array(array)) if !array.elems.is_empty() => array.elems.iter().cloned().map(ungroup).collect(),
        Some(value) if !matches!(value, Expr::Array(_)) => vec![value.clone()],
        _ => return arg.expected(errors, "one or more keys", "[from, to]"),
    };
    for key in keys.iter().filter(|key| is_literal(key)) {
        // A parameter in quotes, by mistake?
        let unquoted = string(key).filter(|text| text.parse::<Expr>().is_ok_and(|expr| !is_literal(&expr)));
        let remedy = match unquoted {
            Some(text) => format!("write `{}` without quotes", text.value()),
            None => "write a parameter, as in `queue_by = id`".to_owned(),
        };
        let one = "`queue_by = ()` to run all calls one at a time";
        errors.at(key, format_args!("this is the same key for every call; {remedy}, or {one}"));
    }
    (!keys.iter().any(is_literal)).then_some(keys)
}

/// Whether an expression has the same value in every call.
fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Lit(_) => true,
        Expr::Group(group) => is_literal(&group.expr),
        Expr::Paren(paren) => is_literal(&paren.expr),
        Expr::Reference(reference) => is_literal(&reference.expr),
        Expr::Unary(unary) => is_literal(&unary.expr),
        Expr::Tuple(tuple) => !tuple.elems.is_empty() && tuple.elems.iter().all(is_literal),
        _ => false,
    }
}

/// A function that takes the body's error: a path or a closure.
pub(crate) fn callable(arg: &Arg, errors: &mut Errors) -> Option<Expr> {
    match arg.expr() {
        Some(value @ (Expr::Path(_) | Expr::Closure(_))) => Some(value.clone()),
        _ => arg.expected(errors, "a function or a closure", "|error| error.is_stale()"),
    }
}

/// An expression of the source: any.
pub(crate) fn source(arg: &Arg, errors: &mut Errors) -> Option<Expr> {
    arg.expr().cloned().or_else(|| arg.expected(errors, "an expression", "&self.pool"))
}

/// An identifier.
pub(crate) fn ident(arg: &Arg, errors: &mut Errors) -> Option<Ident> {
    // `Ident` refuses keywords, unlike `Path::get_ident`.
    let ident = arg.expr().and_then(|value| syn::parse2(value.to_token_stream()).ok());
    ident.or_else(|| arg.expected(errors, "an identifier", "debit_within"))
}

/// A non-empty string literal.
pub(crate) fn text(arg: &Arg, errors: &mut Errors) -> Option<LitStr> {
    match arg.string() {
        Some(text) if !text.value().is_empty() => Some(text.clone()),
        _ => arg.expected(errors, "a name", "\"transfer\""),
    }
}

/// The path of a crate or module.
pub(crate) fn path(arg: &Arg, errors: &mut Errors) -> Option<Path> {
    match arg.expr() {
        Some(Expr::Path(ExprPath { qself: None, path, .. })) => Some(path.clone()),
        _ => arg.expected(errors, "a path", "::retry_runtime"),
    }
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::micros;
    use crate::parse::tests::faults;

    #[test]
    fn durations() {
        assert_eq!(micros("250us"), Ok(250));
        assert_eq!(micros("5ms"), Ok(5_000));
        assert_eq!(micros("1s"), Ok(1_000_000));
        assert_eq!(micros("2m"), Ok(120_000_000));
        assert_eq!(micros("5 ms"), Ok(5_000));
        assert_eq!((micros("5\u{b5}s"), micros("5 \u{3bc}s")), (Ok(5), Ok(5)));
        for (text, fault) in [
            ("", "expected a duration: digits"),
            ("ms", "expected a duration: digits"),
            ("-5ms", "expected a duration: digits"),
            ("5", "expected a unit"),
            ("5 ", "expected a unit"),
            ("5 m s", "unknown unit `m s`"),
            ("5h", "unknown unit `h`"),
            ("1.5s", "expected a whole number"),
            ("0ms", "longer than zero"),
            ("18446744073709551615s", "too long"),
            ("99999999999999999999us", "too long"),
        ] {
            let message = micros(text).expect_err(text);
            assert!(message.contains(fault), "{text}: {message}");
        }
    }

    #[test]
    fn a_twin_has_an_identifier() {
        for name in [quote!(debit_within), quote!(r#try)] {
            assert_eq!(faults(quote!(source = POOL, within = #name)), [""; 0]);
        }
        for name in [quote!("debit_within"), quote!(bank::debit), quote!(self), quote!(debit()), quote!()] {
            let faults = faults(quote!(source = POOL, within = #name));
            assert_eq!(faults, ["expected an identifier, as in `within = debit_within`"], "{name}");
        }
    }

    #[test]
    fn a_literal_is_no_key() {
        for (keys, remedy) in [
            (quote!("id"), "write `id` without quotes"),
            (quote!(["transfer.from", to]), "write `transfer.from` without quotes"),
            (quote!("every transfer"), "write a parameter"),
            (quote!("7"), "write a parameter"),
            (quote!(7), "write a parameter"),
            (quote!([from, -1]), "write a parameter"),
            (quote!((&"a", 1)), "write a parameter"),
        ] {
            let faults = faults(quote!(queue_by = #keys));
            assert!(faults.len() == 1 && faults[0].contains(remedy), "{faults:?}");
        }
        for keys in [quote!(()), quote!(("bank", id)), quote!([id, id + 1]), quote!(KEY)] {
            assert_eq!(faults(quote!(queue_by = #keys)), [""; 0]);
        }
    }
}
