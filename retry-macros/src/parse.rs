//! Parses the attribute, and reports every mistake in it.

use proc_macro2::{Ident, TokenStream};
use syn::parse::{ParseStream, Parser};
use syn::{Result, Token, parse_quote};

use crate::arg::{Arg, Value, skip_comma};
use crate::args::{Args, OPTIONS};
use crate::error::Errors;
use crate::{contradictions, names};

/// Parses the tokens between the attribute's parentheses. Options with a faulty value stay unset.
pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Args {
    let mut args = Args::default();
    let mut seen: Vec<Ident> = Vec::new();
    let parser = |input: ParseStream| {
        while !input.is_empty() {
            match Arg::parse(input) {
                Ok(arg) => {
                    let set = set_once(&mut args, &arg, &mut seen, errors);
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
fn set_once(args: &mut Args, arg: &Arg, seen: &mut Vec<Ident>, errors: &mut Errors) -> Option<()> {
    if seen.contains(&arg.key) {
        return errors.refuse(&arg.key, format_args!("option `{}` given more than once", arg.key));
    }
    let is_option = |key: &Ident| OPTIONS.iter().any(|option| key == option);
    // In `queue_by = from, to`, which lacks its brackets, `to` is a key.
    let after_queue_by = seen.iter().rfind(|key| is_option(key)).is_some_and(|key| key == "queue_by");
    seen.push(arg.key.clone());
    if is_option(&arg.key) {
        return args.set(arg, errors);
    }
    let keys = args.queue_by.as_mut().filter(|_| after_queue_by && matches!(arg.value, Value::None));
    errors.at(&arg.key, names::unknown(&arg.key, keys.as_deref().map(Vec::as_slice)));
    let key = &arg.key;
    keys?.push(parse_quote!(#key));
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use quote::quote;
    use syn::ext::IdentExt;

    use super::*;

    pub(crate) fn faults(tokens: TokenStream) -> Vec<String> {
        let mut errors = Errors::default();
        parse(tokens, &mut errors);
        errors.messages()
    }

    #[test]
    fn every_option_is_accepted() {
        let options = quote! {
            retries = 5, retry_for = "15s", deadlock_retries = crate::LIMIT, isolation = "serializable", read_only, deferrable,
            base_delay = "250us", max_delay = limits::CAP, jitter = "equal", statement_timeout = "2s",
            lock_timeout = "20ms", idle_timeout = "1m", deadline = "3s", unknown_commit = "retry", retry_if = |e| e.is_stale(), retry_on = ["23505", "23P01"],
            source = &self.pool, name = "transfer", crate = ::renamed, allow_mut, queue_by = [from, to],
            escalate_after = 2, damping = "off", begin = "pipelined", early_release, undocumented,
            independent, queue = "process",
        };
        // These two contradict each other.
        let either = [quote!(durable), quote!(within = transfer_within)];
        let keys: Vec<String> = quote!(#options #(#either),*).into_iter().map(|token| token.to_string()).collect();
        assert!(OPTIONS.iter().all(|option| keys.iter().any(|key| key == option)), "{keys:?}");
        for one in either {
            assert_eq!(faults(quote!(#options #one)), [""; 0]);
        }
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
