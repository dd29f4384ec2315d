//! The attribute's options: a row each, set at most once, all faults reported together.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Error, Expr, LitStr, Path, Result, Token};

use crate::error::Errors;
use crate::value::{self, Count, Time};

const OPTIONS: [&str; 19] = [
    "retries",
    "deadlock_retries",
    "isolation",
    "read_only",
    "deferrable",
    "base_delay",
    "max_delay",
    "jitter",
    "statement_timeout",
    "lock_timeout",
    "idle_timeout",
    "retry_if",
    "retry_on",
    "source",
    "name",
    "crate",
    "allow_mut",
    "deadline",
    "unknown_commit",
];

const ISOLATION: [(&str, &str); 3] =
    [("read committed", "ReadCommitted"), ("repeatable read", "RepeatableRead"), ("serializable", "Serializable")];
const UNKNOWN_COMMIT: [(&str, &str); 4] =
    [("fail", "Fail"), ("retry", "Retry"), ("resolve", "Resolve"), ("token", "Token")];
const JITTER: [(&str, &str); 3] = [("full", "Full"), ("equal", "Equal"), ("none", "None")];

/// What the attribute says. An option that is absent is `None`; the runtime holds the defaults.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) retries: Option<Count>,
    pub(crate) deadlock_retries: Option<Count>,
    pub(crate) isolation: Option<Ident>,
    pub(crate) read_only: Option<Ident>,
    pub(crate) deferrable: Option<Ident>,
    pub(crate) base_delay: Option<Time>,
    pub(crate) max_delay: Option<Time>,
    pub(crate) jitter: Option<Ident>,
    pub(crate) statement_timeout: Option<Time>,
    pub(crate) lock_timeout: Option<Time>,
    pub(crate) idle_timeout: Option<Time>,
    pub(crate) retry_if: Option<Expr>,
    pub(crate) retry_on: Option<Vec<LitStr>>,
    pub(crate) source: Option<Expr>,
    pub(crate) name: Option<LitStr>,
    pub(crate) krate: Option<Path>,
    pub(crate) allow_mut: Option<Ident>,
    pub(crate) deadline: Option<Time>,
    pub(crate) unknown_commit: Option<Ident>,
}

impl Args {
    /// Reads the tokens between the attribute's parentheses. What is faulty stays unset.
    pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut args = Self::default();
        let mut seen: Vec<Ident> = Vec::new();
        let parser = |input: ParseStream| {
            while !input.is_empty() {
                match Arg::parse(input) {
                    Ok(arg) if seen.contains(&arg.key) => {
                        errors.at(&arg.key, format_args!("option `{}` given more than once", arg.key));
                    }
                    Ok(arg) => {
                        seen.push(arg.key.clone());
                        if let Err(error) = args.set(arg) {
                            errors.push(error);
                        }
                    }
                    Err(error) => errors.push(error),
                }
                if let Err(error) = next_arg(input) {
                    errors.push(error);
                }
            }
            Ok(())
        };
        // The parser reports every fault itself and reads to the end.
        let _: Result<()> = parser.parse2(tokens);
        args.check(errors);
        args
    }

    fn set(&mut self, arg: Arg) -> Result<()> {
        let name = arg.key.to_string();
        let name = name.as_str();
        match name {
            "retries" => self.retries = arg.value(|value| Count::parse(name, value))?,
            "deadlock_retries" => self.deadlock_retries = arg.value(|value| Count::parse(name, value))?,
            "isolation" => self.isolation = arg.value(|value| value::word(value, &ISOLATION))?,
            "read_only" => self.read_only = arg.flag()?,
            "deferrable" => self.deferrable = arg.flag()?,
            "base_delay" => self.base_delay = arg.value(|value| Time::parse(name, value))?,
            "max_delay" => self.max_delay = arg.value(|value| Time::parse(name, value))?,
            "jitter" => self.jitter = arg.value(|value| value::word(value, &JITTER))?,
            "statement_timeout" => self.statement_timeout = arg.value(|value| Time::parse_timeout(name, value))?,
            "lock_timeout" => self.lock_timeout = arg.value(|value| Time::parse_timeout(name, value))?,
            "idle_timeout" => self.idle_timeout = arg.value(|value| Time::parse_timeout(name, value))?,
            "retry_if" => self.retry_if = arg.value(|value| value::callable(name, value))?,
            "retry_on" => self.retry_on = arg.value(value::sqlstates)?,
            "source" => self.source = arg.value(|value| Ok(value.clone()))?,
            "name" => self.name = arg.value(|value| value::text(name, value))?,
            "crate" => self.krate = arg.value(|value| value::path(name, value))?,
            "allow_mut" => self.allow_mut = arg.flag()?,
            "deadline" => self.deadline = arg.value(|value| Time::parse(name, value))?,
            "unknown_commit" => self.unknown_commit = arg.value(|value| value::word(value, &UNKNOWN_COMMIT))?,
            _ => return Err(unknown(&arg.key)),
        }
        Ok(())
    }

    /// Refuses options that contradict each other.
    fn check(&self, errors: &mut Errors) {
        if let Some(deferrable) = &self.deferrable {
            let serializable = self.isolation.as_ref().is_some_and(|level| level == "Serializable");
            if !serializable || self.read_only.is_none() {
                errors.at(
                    deferrable,
                    "`deferrable` has an effect only together with `read_only` and `isolation = \"serializable\"`",
                );
            }
        }
        if let (Some(Time::Literal { micros: base, token }), Some(Time::Literal { micros: max, .. })) =
            (&self.base_delay, &self.max_delay)
        {
            if base > max {
                errors.at(token, "`base_delay` is longer than `max_delay`");
            }
        }
    }

    /// The fields of `Policy` that are stated, as `field: value,`.
    pub(crate) fn policy_fields(&self, private: &TokenStream) -> TokenStream {
        let some = |value: TokenStream| quote!(::core::option::Option::Some(#value));
        let is_true = |_: &Ident| quote!(true);
        let fields = [
            ("retries", self.retries.as_ref().map(ToTokens::to_token_stream)),
            ("deadlock_retries", self.deadlock_retries.as_ref().map(|count| some(quote!(#count)))),
            ("isolation", self.isolation.as_ref().map(|level| some(quote!(#private::Isolation::#level)))),
            ("read_only", self.read_only.as_ref().map(is_true)),
            ("deferrable", self.deferrable.as_ref().map(is_true)),
            ("base_delay", self.base_delay.as_ref().map(Time::expand)),
            ("max_delay", self.max_delay.as_ref().map(Time::expand)),
            ("jitter", self.jitter.as_ref().map(|jitter| quote!(#private::Jitter::#jitter))),
            ("statement_timeout", self.statement_timeout.as_ref().map(|time| some(time.expand()))),
            ("lock_timeout", self.lock_timeout.as_ref().map(|time| some(time.expand()))),
            ("idle_timeout", self.idle_timeout.as_ref().map(|time| some(time.expand()))),
            ("deadline", self.deadline.as_ref().map(|time| some(time.expand()))),
            ("unknown_commit", self.unknown_commit.as_ref().map(|what| quote!(#private::UnknownCommit::#what))),
            ("retry_on", self.retry_on.as_ref().map(|codes| quote!(&[#(#codes),*]))),
        ];
        fields
            .into_iter()
            .filter_map(|(field, value)| {
                let field = Ident::new(field, proc_macro2::Span::call_site());
                value.map(|value| quote!(#field: #value,))
            })
            .collect()
    }
}

/// `key` or `key = value`.
struct Arg {
    key: Ident,
    value: Option<Expr>,
}

impl Arg {
    fn parse(input: ParseStream) -> Result<Self> {
        if !input.peek(Ident::peek_any) {
            return Err(input.error("expected an option, as in `retries = 3`"));
        }
        let key = input.call(Ident::parse_any)?;
        let value = if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            Some(input.parse()?)
        } else if input.peek(syn::token::Paren) || input.peek(Token![:]) {
            return Err(input.error(format_args!("expected `{key} = <value>`")));
        } else {
            None
        };
        Ok(Self { key, value })
    }

    fn value<T>(&self, parse: impl FnOnce(&Expr) -> Result<T>) -> Result<Option<T>> {
        match &self.value {
            Some(value) => parse(value).map(Some),
            None => Err(Error::new_spanned(&self.key, format_args!("expected `{} = <value>`", self.key))),
        }
    }

    fn flag(self) -> Result<Option<Ident>> {
        match self.value {
            None => Ok(Some(self.key)),
            Some(value) => Err(Error::new_spanned(
                value,
                format_args!("`{}` takes no value; leave the option out to turn it off", self.key),
            )),
        }
    }
}

/// Moves past the comma before the next option, and past whatever stands in between.
fn next_arg(input: ParseStream) -> Result<()> {
    let fault = (!input.is_empty() && !input.peek(Token![,])).then(|| input.error("expected `,`"));
    while !input.is_empty() && !input.peek(Token![,]) {
        input.parse::<proc_macro2::TokenTree>()?;
    }
    if !input.is_empty() {
        input.parse::<Token![,]>()?;
    }
    fault.map_or(Ok(()), Err)
}

fn unknown(key: &Ident) -> Error {
    let list = OPTIONS.map(|option| format!("`{option}`")).join(", ");
    Error::new_spanned(key, format_args!("unknown option `{key}`; the options are {list}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(tokens: TokenStream) -> Vec<String> {
        let mut errors = Errors::default();
        Args::parse(tokens, &mut errors);
        errors.messages()
    }

    #[test]
    fn every_option_is_accepted() {
        let faults = faults(quote! {
            retries = 5, deadlock_retries = crate::LIMIT, isolation = "serializable", read_only, deferrable,
            base_delay = "250us", max_delay = limits::CAP, jitter = "equal", statement_timeout = "2s",
            lock_timeout = "20ms", idle_timeout = "1m", deadline = "3s", unknown_commit = "token", retry_if = |e| e.is_stale(), retry_on = ["23505", "23P01"],
            source = &self.pool, name = "transfer", crate = ::renamed, allow_mut,
        });
        assert_eq!(faults, [""; 0]);
    }

    #[test]
    fn every_option_has_its_row() {
        for option in OPTIONS {
            let key = Ident::parse_any.parse_str(option).unwrap();
            let faults = faults(quote!(#key = 1 + 1));
            assert!(faults.iter().all(|fault| !fault.contains("unknown option")), "{option}: {faults:?}");
        }
    }

    #[test]
    fn all_faults_are_reported_in_one_run() {
        let faults = faults(quote! {
            retry = 1, retries = "3", retries = 4, deadlock_retries = -1, isolation = "chaos", read_only = true,
            base_delay = "5", jitter, retry_on = ["2350", "23505", "23505"], lock_timeout(5) 7, deferrable
        });
        for (fault, start) in faults.iter().zip([
            "unknown option `retry`",
            "expected an integer",
            "option `retries` given more than once",
            "expected a number from 0",
            "expected one of",
            "`read_only` takes no value",
            "expected a unit",
            "expected `jitter = <value>`",
            "expected an SQLSTATE",
            "SQLSTATE `23505` given more than once",
            "expected `lock_timeout = <value>`",
            "expected `,`",
            "`deferrable` has an effect only together",
        ]) {
            assert!(fault.starts_with(start), "{fault:?} is not {start:?}");
        }
        assert_eq!(faults.len(), 13, "{faults:#?}");
    }

    #[test]
    fn timeouts_are_whole_milliseconds() {
        assert!(faults(quote!(lock_timeout = "999us"))[0].contains("milliseconds"));
        assert!(faults(quote!(lock_timeout = "2147483648ms"))[0].contains("longest"));
        assert_eq!(faults(quote!(lock_timeout = "2147483647ms")), [""; 0]);
    }

    #[test]
    fn contradictions_are_refused() {
        assert_eq!(faults(quote!(base_delay = "2ms", max_delay = "1ms")), ["`base_delay` is longer than `max_delay`"]);
        assert_eq!(faults(quote!(base_delay = "2ms", max_delay = "2ms")), [""; 0]);
        for one in [quote!(deferrable), quote!(deferrable, read_only), quote!(deferrable, isolation = "serializable")] {
            assert!(faults(one)[0].starts_with("`deferrable` has an effect only"));
        }
    }
}
