//! The attribute's options: a row each, set at most once, all faults reported together.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Expr, LitStr, Path, Result, Token, parse_quote, token};

use crate::backoff::DEADLOCK_RETRIES;
use crate::error::Errors;
use crate::names;
use crate::value::{self, Count, Time};

/// Declares the options: each one's name, its field, and what reads its value.
macro_rules! options {
    ($($name:literal $field:ident: $kind:ty = $read:path;)*) => {
        /// The names of all options.
        pub(crate) const OPTIONS: &[&str] = &[$($name),*];

        /// What the attribute says. An option that is absent is `None`; the runtime holds the defaults.
        #[derive(Default)]
        pub(crate) struct Args {
            $(pub(crate) $field: Option<$kind>,)*
            /// Whether any of them was refused. What is left of the policy may contradict itself then.
            pub(crate) faulty: bool,
        }

        impl Args {
            /// Sets an option; `None` where that was refused.
            fn set(&mut self, arg: &Arg, errors: &mut Errors) -> Option<()> {
                match arg.key.to_string().as_str() {
                    $($name => self.$field = Some($read(arg, errors)?),)*
                    _ => return None,
                }
                Some(())
            }
        }
    };
}

options! {
    "retries" retries: Count = Count::read;
    "deadlock_retries" deadlock_retries: Count = Count::read;
    "isolation" isolation: Ident = value::isolation;
    "read_only" read_only: Ident = value::flag;
    "deferrable" deferrable: Ident = value::flag;
    "base_delay" base_delay: Time = Time::read;
    "max_delay" max_delay: Time = Time::read;
    "jitter" jitter: Ident = value::jitter;
    "statement_timeout" statement_timeout: Time = Time::read_timeout;
    "lock_timeout" lock_timeout: Time = Time::read_timeout;
    "idle_timeout" idle_timeout: Time = Time::read_timeout;
    "deadline" deadline: Time = Time::read;
    "unknown_commit" unknown_commit: Ident = value::unknown_commit;
    "retry_if" retry_if: Expr = value::callable;
    "retry_on" retry_on: Vec<LitStr> = value::sqlstates;
    "queue_by" queue_by: Vec<Expr> = value::keys;
    "escalate_after" escalate_after: Count = Count::read_from_one;
    "damping" damping: Ident = value::damping;
    "begin" begin: Ident = value::begin;
    "independent" independent: Ident = value::flag;
    "source" source: Expr = value::source;
    "name" name: LitStr = value::text;
    "allow_mut" allow_mut: Ident = value::flag;
    "undocumented" undocumented: Ident = value::flag;
    "crate" krate: Path = value::path;
}

impl Args {
    /// Reads the tokens between the attribute's parentheses. What is faulty stays unset.
    pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut args = Self::default();
        let mut seen: Vec<Ident> = Vec::new();
        let parser = |input: ParseStream| {
            while !input.is_empty() {
                match Arg::parse(input) {
                    Ok(arg) => {
                        let set = args.set_once(&arg, &mut seen, errors);
                        if set.is_some() && !input.is_empty() && !input.peek(Token![,]) {
                            errors.push(input.error("expected `,`"));
                        }
                    }
                    Err(error) => errors.push(error),
                }
                skip_comma(input)?;
            }
            Ok(())
        };
        // Every fault is in `errors`, and the parser reads to the end.
        let _: Result<()> = parser.parse2(tokens);
        args.check(&seen, errors);
        args.faulty = !errors.is_empty();
        args
    }

    fn set_once(&mut self, arg: &Arg, seen: &mut Vec<Ident>, errors: &mut Errors) -> Option<()> {
        if seen.contains(&arg.key) {
            return errors.refuse(&arg.key, format_args!("option `{}` given more than once", arg.key));
        }
        let is_option = |key: &Ident| OPTIONS.iter().any(|option| key == option);
        let before = seen.iter().rfind(|key| is_option(key)).is_some_and(|key| key == "queue_by");
        seen.push(arg.key.clone());
        if is_option(&arg.key) {
            return self.set(arg, errors);
        }
        let keys = self.queue_by.as_mut().filter(|_| before && matches!(arg.value, Value::None));
        errors.at(&arg.key, names::unknown(&arg.key, keys.as_deref().map(Vec::as_slice)));
        let key = &arg.key;
        keys?.push(parse_quote!(#key));
        None
    }

    /// Refuses options that contradict each other, unless one of them was refused already.
    fn check(&self, seen: &[Ident], errors: &mut Errors) {
        if let Some(deferrable) = &self.deferrable {
            let serializable = match &self.isolation {
                Some(level) => level == "Serializable",
                None => seen.iter().any(|seen| seen == "isolation"),
            };
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
        if let (Some(Time::Literal { micros: base, .. }), Some(Time::Literal { micros: deadline, token })) =
            (&self.base_delay, &self.deadline)
        {
            if deadline < base {
                errors.at(token, "`deadline` is shorter than `base_delay`, so that it leaves no time for a retry");
            }
        }
        self.check_budgets(seen, errors);
        if let (Some(_), Some(what)) = (&self.read_only, &self.unknown_commit) {
            if what == "Resolve" || what == "Token" {
                errors.at(
                    what,
                    "a `read_only` function has no outcome to look up: it is simply tried again; remove `unknown_commit`",
                );
            }
        }
    }

    /// Refuses what no budget pays for.
    fn check_budgets(&self, seen: &[Ident], errors: &mut Errors) {
        if let (Some(Count::Literal(0)), Some(codes)) = (&self.retries, &self.retry_on) {
            errors.at(&codes[0], "`retry_on` counts against `retries`, which is 0");
        }
        let is_default = |name: &str| seen.iter().all(|seen| seen != name);
        let budget = match (&self.deadlock_retries, &self.retries) {
            (Some(Count::Literal(budget)), _) => *budget,
            (None, Some(Count::Literal(retries))) if is_default("deadlock_retries") => DEADLOCK_RETRIES.max(*retries),
            (None, None) if is_default("deadlock_retries") && is_default("retries") => DEADLOCK_RETRIES,
            // A constant's, and for the runtime to check; or refused already.
            _ => return,
        };
        if let (0, Some(retry_if)) = (budget, &self.retry_if) {
            errors.at(retry_if, "`retry_if` counts against `deadlock_retries`, which is 0");
        }
        if matches!(self.escalate_after, Some(Count::Literal(after)) if after > budget) {
            let key = seen.iter().find(|key| *key == "escalate_after");
            let budget = format!("`deadlock_retries`, which is {budget}");
            errors.at(key, format_args!("`escalate_after` is greater than {budget}: it never comes to that"));
        }
    }

    /// The `Policy`: what is stated, and the runtime's defaults for the rest.
    pub(crate) fn policy(&self, private: &TokenStream) -> TokenStream {
        fn some(value: &impl ToTokens) -> TokenStream {
            quote!(::core::option::Option::Some(#value))
        }
        let is_true = |_: &Ident| quote!(true);
        let fields = [
            ("retries", self.retries.as_ref().map(ToTokens::to_token_stream)),
            ("deadlock_retries", self.deadlock_retries.as_ref().map(some)),
            ("isolation", self.isolation.as_ref().map(|level| some(&quote!(#private::Isolation::#level)))),
            ("read_only", self.read_only.as_ref().map(is_true)),
            ("deferrable", self.deferrable.as_ref().map(is_true)),
            ("base_delay", self.base_delay.as_ref().map(ToTokens::to_token_stream)),
            ("max_delay", self.max_delay.as_ref().map(some)),
            ("jitter", self.jitter.as_ref().map(|jitter| quote!(#private::Jitter::#jitter))),
            ("statement_timeout", self.statement_timeout.as_ref().map(some)),
            ("lock_timeout", self.lock_timeout.as_ref().map(some)),
            ("idle_timeout", self.idle_timeout.as_ref().map(some)),
            ("deadline", self.deadline.as_ref().map(some)),
            ("unknown_commit", self.unknown_commit.as_ref().map(|what| quote!(#private::UnknownCommit::#what))),
            ("escalate_after", self.escalate_after.as_ref().map(some)),
            ("damping", self.damping.as_ref().map(|damping| quote!(#private::Damping::#damping))),
            ("independent", self.independent.as_ref().map(is_true)),
            ("begin", self.begin.as_ref().map(|begin| some(&quote!(#private::Begin::#begin)))),
            ("retry_on", self.retry_on.as_ref().map(|codes| quote!(&[#(#codes),*]))),
        ];
        let stated: TokenStream = fields
            .into_iter()
            .filter_map(|(field, value)| {
                let field = Ident::new(field, Span::call_site());
                value.map(|value| quote!(#field: #value,))
            })
            .collect();
        if stated.is_empty() || self.faulty {
            return quote!(#private::Policy::DEFAULT);
        }
        let policy = quote!(#private::Policy { #stated ..#private::Policy::DEFAULT });
        match (&self.retry_if, &self.deadlock_retries) {
            (Some(_), Some(Count::Path(_))) => quote!(#private::with_retry_if(#policy)),
            _ => policy,
        }
    }
}

/// `key` or `key = value`.
pub(crate) struct Arg {
    pub(crate) key: Ident,
    pub(crate) value: Value,
}

pub(crate) enum Value {
    None,
    Expr(Expr),
    /// What is not a value, as in `key(5)` or `key: 5`.
    Other(TokenStream),
}

impl Arg {
    fn parse(input: ParseStream) -> Result<Self> {
        if !input.peek(Ident::peek_any) {
            return Err(input.error("expected an option, as in `retries = 3`"));
        }
        let key = input.call(Ident::parse_any)?;
        let value = if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            if input.is_empty() || input.peek(Token![,]) {
                Value::None
            } else {
                Value::Expr(value::ungroup(input.parse()?))
            }
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

/// Moves past the next comma, whatever stands before it.
fn skip_comma(input: ParseStream) -> Result<()> {
    rest(input)?;
    input.parse::<Option<Token![,]>>()?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn faults(tokens: TokenStream) -> Vec<String> {
        let mut errors = Errors::default();
        Args::parse(tokens, &mut errors);
        errors.messages()
    }

    #[test]
    fn every_option_is_accepted() {
        let faults = faults(quote! {
            retries = 5, deadlock_retries = crate::LIMIT, isolation = "serializable", read_only, deferrable,
            base_delay = "250us", max_delay = limits::CAP, jitter = "equal", statement_timeout = "2s",
            lock_timeout = "20ms", idle_timeout = "1m", deadline = "3s", unknown_commit = "retry", retry_if = |e| e.is_stale(), retry_on = ["23505", "23P01"],
            source = &self.pool, name = "transfer", crate = ::renamed, allow_mut, queue_by = [from, to],
            escalate_after = 2, damping = "off", begin = "pipelined", undocumented,
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
    fn every_option_is_documented() {
        let glance = include_str!("lib.rs");
        let page = include_str!("../../retry-runtime/docs/options.md");
        let cells = page.lines().filter_map(|row| row.strip_prefix("| ")?.split(" | ").next());
        let documented: Vec<&str> = cells.flat_map(|cell| cell.split(", ")).collect();
        for option in OPTIONS {
            assert!(glance.contains(&format!("`{option}")), "{option} is not in lib.rs");
            assert!(documented.contains(&format!("`{option}`").as_str()), "{option} has no row in options.md");
        }
    }

    #[test]
    fn all_faults_are_reported_in_one_run() {
        let faults = faults(quote! {
            retry = 1, retries = "3", retries = 4, deadlock_retries = -1, isolation = "chaos", read_only = true,
            base_delay = "5", jitter, retry_on = ["2350", "23505", "23505"], lock_timeout(5) 7, max_delay = "1s" 7,
            source =, 5, retry_if: 5, name = "bank" allow_mut, deferrable(true)
        });
        let starts = [
            "unknown option `retry`; did you mean `retries`?",
            "expected an integer",
            "option `retries` given more than once",
            "expected a number from 0",
            "expected `isolation` to be one of",
            "`read_only` takes no value",
            "expected a unit",
            "expected `jitter` to be one of",
            "expected an SQLSTATE",
            "SQLSTATE `23505` given more than once",
            "expected a duration or the path of a `Duration` constant, as in `lock_timeout = ",
            "expected `,`",
            "expected an expression, as in `source = ",
            "expected an option",
            "expected a function or a closure",
            "expected `,`",
            "`deferrable` takes no value",
        ];
        for (fault, start) in faults.iter().zip(starts) {
            assert!(fault.starts_with(start), "{fault:?} is not {start:?}");
        }
        assert_eq!(faults.len(), starts.len(), "{faults:#?}");
    }

    #[test]
    fn one_fault_is_reported_once() {
        for one in [
            quote!(deferrable, read_only, isolation = "chaos"),
            quote!(deferrable, read_only = 1, isolation = "serializable"),
            quote!(deferrable = false),
            quote!(retries = 0, retry_on = ["2350"]),
            quote!(retries = "7", escalate_after = 7),
            quote!(deadlock_retries = -7, retries = 1, escalate_after = 7),
            quote!(retries = 3 +, read_only),
            quote!(retries: 3),
            quote!(isolation = read committed),
            quote!(retries = "3" deadlock_retries = 1),
        ] {
            let text = one.to_string();
            assert_eq!(faults(one).len(), 1, "{text}");
        }
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
        for (one, fault) in [
            (quote!(deadline = "1ms", base_delay = "2ms"), "`deadline` is shorter"),
            (quote!(retries = 0, retry_on = ["23505"]), "`retry_on` counts against `retries`"),
            (quote!(deadlock_retries = 0, retry_if = is_stale), "`retry_if` counts against"),
            (quote!(deadlock_retries = 2, escalate_after = 3), "`escalate_after` is greater"),
            (quote!(escalate_after = 6), "`escalate_after` is greater than `deadlock_retries`, which is 5:"),
            (quote!(retries = 7, escalate_after = 8), "`escalate_after` is greater"),
            (quote!(read_only, unknown_commit = "token"), "a `read_only` function"),
            (quote!(isolation = "read uncommitted"), "PostgreSQL runs `read uncommitted`"),
            (quote!(propagation = "nested"), "unknown option `propagation`; a nested call"),
        ] {
            let faults = faults(one);
            assert!(faults.len() == 1 && faults[0].starts_with(fault), "{faults:?}");
        }
        for budget in [
            quote!(deadlock_retries = 7),
            quote!(deadlock_retries = LIMIT),
            quote!(retries = 7),
            quote!(retries = LIMIT),
        ] {
            assert_eq!(faults(quote!(#budget, escalate_after = 7)), [""; 0]);
        }
        assert_eq!(faults(quote!(escalate_after = 5)), [""; 0]);
        for one in [quote!(deferrable), quote!(deferrable, read_only), quote!(deferrable, isolation = "serializable")] {
            assert!(faults(one)[0].starts_with("`deferrable` has an effect only"));
        }
    }
}
