//! What people write in place of the options' names.

use proc_macro2::Ident;

use crate::args::OPTIONS;

/// What the options are called elsewhere, and here.
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

/// What to say of a name that no option has.
pub(crate) fn unknown(key: &Ident) -> String {
    let name = key.to_string();
    if name == "propagation" {
        return "unknown option `propagation`; a nested call is always a savepoint of the call around it".to_owned();
    }
    let elsewhere = ELSEWHERE.into_iter().find(|(elsewhere, _)| *elsewhere == name).map(|(_, here)| here);
    let alike = |option: &&str| name.contains(option) || distance(option, &name) <= option.len() / 2;
    let nearest = || OPTIONS.iter().copied().min_by_key(|option| distance(option, &name)).filter(alike);
    if let Some(option) = elsewhere.or_else(nearest) {
        return format!("unknown option `{name}`; did you mean `{option}`?");
    }
    let options: Vec<_> = OPTIONS.iter().map(|option| format!("`{option}`")).collect();
    format!("unknown option `{name}`; the options are {}", options.join(", "))
}

/// How many letters have to be put in, left out or changed to get from one word to another.
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

    use super::*;

    #[test]
    fn what_options_are_called_elsewhere_is_no_option_here() {
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
        ] {
            let fault = message(option);
            assert!(fault.ends_with(&format!("did you mean `{nearest}`?")), "{fault}");
        }
        assert!(message("frobnicate").contains("the options are `retries`, "));
    }

    fn message(name: &str) -> String {
        unknown(&Ident::new(name, Span::call_site()))
    }
}
