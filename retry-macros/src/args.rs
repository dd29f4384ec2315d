//! The options of the attribute: a table with a row for each, and their parser.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::quote;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Expr, LitStr, Path, Result, Token, parse_quote, token};

use crate::choice::{self, Begin, Choice, Damping, Isolation, Jitter, UnknownCommit};
use crate::error::Errors;
use crate::value::{self, Count, Flag, PolicyField, Time};
use crate::{contradictions, names};

/// Declares the options. A row has, in this order:
///
/// - the name in the attribute,
/// - the field in [`Args`], and the type of the value,
/// - the function that reads the value,
/// - if the runtime's `Policy` has a field of this name: `plain` for a `T`, `optional` for an `Option<T>`.
macro_rules! options {
    ($($name:literal $field:ident: $kind:ty = $read:path $(=> $policy:ident)?;)*) => {
        /// The names of all options.
        pub(crate) const OPTIONS: &[&str] = &[$($name),*];

        /// The options that the attribute states. The others are `None`, and have the runtime's defaults.
        #[derive(Default)]
        pub(crate) struct Args {
            $(pub(crate) $field: Option<$kind>,)*
            /// Whether there was an error. The options without one may then contradict each other.
            pub(crate) faulty: bool,
        }

        impl Args {
            /// Sets an option. `None` if its value is faulty.
            fn set(&mut self, arg: &Arg, errors: &mut Errors) -> Option<()> {
                match arg.key.to_string().as_str() {
                    $($name => self.$field = Some($read(arg, errors)?),)*
                    _ => return None,
                }
                Some(())
            }

            /// The fields of the runtime's `Policy` that the attribute states.
            fn policy_fields(&self, private: &TokenStream) -> TokenStream {
                let mut fields = TokenStream::new();
                $($(
                    if let Some(value) = &self.$field {
                        let value = $policy(value, private);
                        fields.extend(quote!($field: #value,));
                    }
                )?)*
                fields
            }
        }
    };
}

/// A field of type `T`.
fn plain(value: &impl PolicyField, private: &TokenStream) -> TokenStream {
    value.to_field(private)
}

/// A field of type `Option<T>`.
fn optional(value: &impl PolicyField, private: &TokenStream) -> TokenStream {
    let value = value.to_field(private);
    quote!(::core::option::Option::Some(#value))
}

options! {
    "retries" retries: Count = Count::read => plain;
    "deadlock_retries" deadlock_retries: Count = Count::read => optional;
    "isolation" isolation: Choice<Isolation> = choice::isolation => optional;
    "read_only" read_only: Flag = Flag::read => plain;
    "deferrable" deferrable: Flag = Flag::read => plain;
    "base_delay" base_delay: Time = Time::read => plain;
    "max_delay" max_delay: Time = Time::read => optional;
    "jitter" jitter: Choice<Jitter> = Choice::read => plain;
    "statement_timeout" statement_timeout: Time = Time::read_timeout => optional;
    "lock_timeout" lock_timeout: Time = Time::read_timeout => optional;
    "idle_timeout" idle_timeout: Time = Time::read_timeout => optional;
    "deadline" deadline: Time = Time::read => optional;
    "unknown_commit" unknown_commit: Choice<UnknownCommit> = Choice::read => plain;
    "retry_if" retry_if: Expr = value::callable;
    "retry_on" retry_on: Vec<LitStr> = value::sqlstates => plain;
    "queue_by" queue_by: Vec<Expr> = value::keys;
    "escalate_after" escalate_after: Count = Count::read_from_one => optional;
    "damping" damping: Choice<Damping> = Choice::read => plain;
    "begin" begin: Choice<Begin> = Choice::read => optional;
    "independent" independent: Flag = Flag::read => plain;
    "source" source: Expr = value::source;
    "name" name: LitStr = value::text;
    "allow_mut" allow_mut: Flag = Flag::read;
    "undocumented" undocumented: Flag = Flag::read;
    "crate" krate: Path = value::path;
}

impl Args {
    /// Parses the tokens between the attribute's parentheses. Options with a faulty value stay unset.
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
        // The parser reads to the end, and puts every error into `errors`.
        let _: Result<()> = parser.parse2(tokens);
        contradictions::check(&args, &seen, errors);
        args.faulty = !errors.is_empty();
        args
    }

    /// Sets an option, unless the name is unknown or given a second time.
    fn set_once(&mut self, arg: &Arg, seen: &mut Vec<Ident>, errors: &mut Errors) -> Option<()> {
        if seen.contains(&arg.key) {
            return errors.refuse(&arg.key, format_args!("option `{}` given more than once", arg.key));
        }
        let is_option = |key: &Ident| OPTIONS.iter().any(|option| key == option);
        // In `queue_by = from, to`, which lacks its brackets, `to` is a key.
        let after_queue_by = seen.iter().rfind(|key| is_option(key)).is_some_and(|key| key == "queue_by");
        seen.push(arg.key.clone());
        if is_option(&arg.key) {
            return self.set(arg, errors);
        }
        let keys = self.queue_by.as_mut().filter(|_| after_queue_by && matches!(arg.value, Value::None));
        errors.at(&arg.key, names::unknown(&arg.key, keys.as_deref().map(Vec::as_slice)));
        let key = &arg.key;
        keys?.push(parse_quote!(#key));
        None
    }

    /// The runtime's `Policy`, with its defaults for options that the attribute does not state.
    pub(crate) fn policy(&self, private: &TokenStream) -> TokenStream {
        let fields = self.policy_fields(private);
        let policy = if fields.is_empty() || self.faulty {
            quote!(#private::Policy::DEFAULT)
        } else {
            quote!(#private::Policy { #fields ..#private::Policy::DEFAULT })
        };
        if self.retry_if.is_some() { quote!(#private::with_retry_if(#policy)) } else { policy }
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
    /// Tokens that are no value, as in `key(5)` or `key: 5`.
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

/// Skips everything up to and including the next comma.
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
        let options = quote! {
            retries = 5, deadlock_retries = crate::LIMIT, isolation = "serializable", read_only, deferrable,
            base_delay = "250us", max_delay = limits::CAP, jitter = "equal", statement_timeout = "2s",
            lock_timeout = "20ms", idle_timeout = "1m", deadline = "3s", unknown_commit = "retry", retry_if = |e| e.is_stale(), retry_on = ["23505", "23P01"],
            source = &self.pool, name = "transfer", crate = ::renamed, allow_mut, queue_by = [from, to],
            escalate_after = 2, damping = "off", begin = "pipelined", undocumented,
            independent,
        };
        let keys: Vec<String> = options.clone().into_iter().map(|token| token.to_string()).collect();
        assert!(OPTIONS.iter().all(|option| keys.iter().any(|key| key == option)), "{keys:?}");
        assert_eq!(faults(options), [""; 0]);
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
    fn timeouts_are_whole_milliseconds() {
        assert!(faults(quote!(lock_timeout = "999us"))[0].contains("milliseconds"));
        assert!(faults(quote!(lock_timeout = "2147483648ms"))[0].contains("longest"));
        assert_eq!(faults(quote!(lock_timeout = "2147483647ms")), [""; 0]);
    }
}
