//! Unknown options: suggests the one that was meant.

use proc_macro2::Ident;
use syn::{Expr, ExprPath};

use crate::args::OPTIONS;

/// Names from other libraries, and the names of the options here.
const ELSEWHERE: [(&str, &str); 14] = [
    ("retry", "retries"),
    ("max_retries", "retries"),
    ("attempts", "retries"),
    ("max_attempts", "retries"),
    ("deadlocks", "deadlock_retries"),
    ("timeout", "deadline"),
    ("backoff", "base_delay"),
    ("delay", "base_delay"),
    ("max_backoff", "max_delay"),
    ("isolation_level", "isolation"),
    ("readonly", "read_only"),
    ("pool", "source"),
    ("retry_codes", "retry_on"),
    ("serialize_by", "queue_by"),
];

/// The error message for a name that is no option. `keys` are those of a `queue_by` directly before it: the name may be
/// another key.
pub(crate) fn unknown(key: &Ident, keys: Option<&[Expr]>) -> String {
    let (written, name) = (key, key.to_string().to_lowercase());
    if name == "propagation" {
        return "unknown option `propagation`; a nested call is always a savepoint of the open transaction".to_owned();
    }
    let elsewhere = ELSEWHERE.into_iter().find(|(elsewhere, _)| *elsewhere == name).map(|(_, here)| here);
    let alike = |option: &&str| name.contains(option) || distance(option, &name) <= option.len() / 2;
    let nearest = || OPTIONS.iter().copied().min_by_key(|option| distance(option, &name)).filter(alike);
    if let Some(option) = elsewhere.or_else(nearest) {
        return format!("unknown option `{written}`; did you mean `{option}`?");
    }
    if let Some(keys) = keys {
        let names: Option<Vec<_>> = keys.iter().map(ident).chain([Some(key)]).collect();
        let names = names.unwrap_or_default().into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let example = if names.is_empty() { "from, to" } else { &names };
        return format!("unknown option `{written}`; to state several keys, write `queue_by = [{example}]`");
    }
    let options: Vec<_> = OPTIONS.iter().map(|option| format!("`{option}`")).collect();
    format!("unknown option `{written}`; the options are {}", options.join(", "))
}

/// The expression, if it is only a name.
fn ident(expr: &Expr) -> Option<&Ident> {
    match expr {
        Expr::Path(ExprPath { path, .. }) => path.get_ident(),
        _ => None,
    }
}

/// The Levenshtein distance: how many letters to insert, delete or replace to turn one word into the other.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use proc_macro2::Span;
    use quote::quote;

    use super::*;
    use crate::parse::tests::faults;

    #[test]
    fn names_from_elsewhere_are_no_options_here() {
        for (elsewhere, here) in ELSEWHERE {
            assert!(!OPTIONS.contains(&elsewhere) && OPTIONS.contains(&here), "{elsewhere}: {here}");
        }
    }

    #[test]
    fn unknown_options_suggest_the_nearest() {
        for (option, nearest) in [
            ("retry", "retries"),
            ("max_retries", "retries"),
            ("readonly", "read_only"),
            ("timeout", "deadline"),
            ("isolation_level", "isolation"),
            ("attempts", "retries"),
            ("backoff", "base_delay"),
            ("lock_timout", "lock_timeout"),
            ("READ_ONLY", "read_only"),
            ("readOnly", "read_only"),
            ("Retries", "retries"),
        ] {
            let fault = message(option);
            assert!(fault.ends_with(&format!("did you mean `{nearest}`?")), "{fault}");
        }
        assert!(message("frobnicate").contains("the options are `retries`, "));
    }

    #[test]
    fn several_keys_need_brackets() {
        for (args, example) in [
            (quote!(queue_by = from, to), vec!["[from, to]"]),
            (quote!(queue_by = from, to, via, read_only), vec!["[from, to]", "[from, to, via]"]),
            (quote!(queue_by = [from, to], via), vec!["[from, to, via]"]),
            (quote!(queue_by = transfer.from, to), vec!["[from, to]"]),
        ] {
            let faults = faults(args);
            let says = |(fault, example): (&String, &&str)| fault.ends_with(&format!("`queue_by = {example}`"));
            assert!(faults.len() == example.len() && faults.iter().zip(&example).all(says), "{faults:?}");
        }
        assert!(faults(quote!(queue_by = from, read_onli))[0].ends_with("did you mean `read_only`?"));
        assert!(faults(quote!(queue_by = from, retries = 2, to))[0].contains("the options are"));
    }

    fn message(name: &str) -> String {
        unknown(&Ident::new(name, Span::call_site()), None)
    }
}
