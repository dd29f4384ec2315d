//! What a public function's documentation says of its retries, so that its callers see what they cost.

use std::time::Duration;

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{ExprPath, LitStr, Meta, Visibility};

use crate::args::Args;
use crate::backoff::{BASE_DELAY, DEADLOCK_RETRIES, MAX_DELAY, RETRIES, SURROUNDINGS, longest_sleep};
use crate::choice::UnknownCommit;
use crate::item::Item;
use crate::value::{Count, Time};

/// A section for the end of the documentation of a function that is public, and has one.
pub(crate) fn section(args: &Args, item: &Item) -> Option<TokenStream> {
    let is_doc = |meta: &Meta| matches!(meta, Meta::NameValue(meta) if meta.path.is_ident("doc"));
    let is_public = !matches!(item.vis, Visibility::Inherited);
    if !is_public || !item.attrs.iter().any(|attr| is_doc(&attr.meta)) || args.undocumented.is_some() || args.faulty {
        return None;
    }
    let (conflicts, surroundings) = (conflicts(args), surroundings(args));
    let deadline = args.deadline.as_ref().map(|limit| format!("A call ends within {}. ", duration(limit)));
    let queue = args.queue_by.as_ref().map(|_| "Calls with a key in common wait for each other. ");
    let text = format!(
        "\n# Transaction\n\nRuns as {}, and again where that fails:\n\n- {conflicts};\n- {surroundings}.\n\n\
         {}{}In an open transaction it is a savepoint, and the outermost call does the retrying.",
        transaction(args),
        deadline.unwrap_or_default(),
        queue.unwrap_or_default(),
    );
    Some(quote!(#[doc = #text]))
}

/// What the function runs as.
fn transaction(args: &Args) -> String {
    // The attribute has SQL's names of the levels, in lower case.
    let level = args.isolation.as_ref().map(|level| level.token.value().to_uppercase());
    let read_only = args.read_only.as_ref().map(|_| "READ ONLY");
    let deferrable = args.deferrable.as_ref().map(|_| "DEFERRABLE");
    let modes: Vec<_> = [level.as_deref(), read_only, deferrable].into_iter().flatten().collect();
    let modes = if modes.is_empty() { String::new() } else { format!("`{}` ", modes.join(" ")) };
    let session = if level.is_none() { " at the session's isolation level" } else { "" };
    format!("a {modes}transaction{session}")
}

/// How often after a lost conflict.
fn conflicts(args: &Args) -> String {
    let retry_if = if args.retry_if.is_some() { ", what `retry_if` accepts" } else { "" };
    let cause =
        format!("losing to a concurrent transaction (deadlock, serialization failure, lock not available{retry_if})");
    match (&args.deadlock_retries, &args.retries) {
        (Some(retries), _) => after(&cause, retries, args, 1),
        (None, Some(Count::Path(path))) => {
            format!("up to {DEADLOCK_RETRIES} times more, or {} where that is greater, after {cause}", code(path))
        }
        (None, Some(Count::Literal(retries))) => {
            after(&cause, &Count::Literal(DEADLOCK_RETRIES.max(*retries)), args, 1)
        }
        (None, None) => after(&cause, &Count::Literal(DEADLOCK_RETRIES), args, 1),
    }
}

/// How often after a failure of the surroundings.
fn surroundings(args: &Args) -> String {
    let lost = match args.unknown_commit.as_ref().map(|choice| choice.value) {
        _ if args.read_only.is_some() => "",
        None | Some(UnknownCommit::Fail) => " before `COMMIT`",
        Some(UnknownCommit::Retry) => " even in `COMMIT`",
        Some(UnknownCommit::Resolve | UnknownCommit::Token) => " and nothing committed",
    };
    let mut causes = vec![format!("connection lost{lost}"), "failover".into(), "no free connection".into()];
    causes.extend(args.retry_on.iter().flatten().map(LitStr::value));
    let cause = format!("a failure of the surroundings ({})", causes.join(", "));
    after(&cause, args.retries.as_ref().unwrap_or(&Count::Literal(RETRIES)), args, SURROUNDINGS)
}

/// How often after `cause`, and how long the call sleeps for it, where no constant hides that.
fn after(cause: &str, retries: &Count, args: &Args, factor: u32) -> String {
    let (retries, times) = match retries {
        Count::Literal(0) => return format!("never after {cause}"),
        Count::Literal(1) => (1, "once more".to_owned()),
        Count::Literal(retries) => (*retries, format!("up to {retries} times more")),
        Count::Path(path) => return format!("up to {} times more after {cause}", code(path)),
    };
    let sleep = || {
        let base = delay(args.base_delay.as_ref(), BASE_DELAY)?;
        let max = delay(args.max_delay.as_ref(), MAX_DELAY.max(base))?;
        let sleep = longest_sleep(base.saturating_mul(factor), max.saturating_mul(factor), retries);
        Some(format!(", sleeping {} at most in all", human(sleep)))
    };
    format!("{times} after {cause}{}", sleep().unwrap_or_default())
}

/// A delay whose length is known here.
fn delay(time: Option<&Time>, default: Duration) -> Option<Duration> {
    match time {
        None => Some(default),
        Some(Time::Literal { micros, .. }) => Some(Duration::from_micros(*micros)),
        Some(Time::Path(_)) => None,
    }
}

/// A path as it is written.
fn code(path: &ExprPath) -> String {
    format!("`{}`", path.to_token_stream().to_string().replace(' ', ""))
}

fn duration(time: &Time) -> String {
    match time {
        Time::Literal { micros, .. } => human(Duration::from_micros(*micros)),
        Time::Path(path) => code(path),
    }
}

/// In the unit that fits, rounded up to a tenth of it.
fn human(time: Duration) -> String {
    const UNITS: [(u128, &str); 3] = [(1_000, "µs"), (1_000_000, "ms"), (1_000_000_000, "s")];
    let nanos = time.as_nanos();
    let (unit, name) = UNITS.into_iter().rfind(|(unit, _)| *unit <= nanos).unwrap_or(UNITS[0]);
    let tenths = (nanos * 10).div_ceil(unit);
    if tenths % 10 == 0 { format!("{} {name}", tenths / 10) } else { format!("{}.{} {name}", tenths / 10, tenths % 10) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Errors;

    /// What is added to `item`'s documentation, without its line breaks.
    fn added(args: TokenStream, item: &str) -> Option<String> {
        let args = Args::parse(args, &mut Errors::default());
        let item = syn::parse_str(item).expect("a function");
        section(&args, &item).map(|section| section.to_string().replace("\\n", " "))
    }

    fn of(args: TokenStream) -> String {
        added(args, "/** . */ pub async fn f() {}").expect("a documented public function")
    }

    #[test]
    fn only_what_is_public_and_documented() {
        for (args, item, is_added) in [
            (quote!(), "/** . */ pub async fn f() {}", true),
            (quote!(), "/** . */ pub(crate) async fn f() {}", true),
            (quote!(), "/** . */ async fn f() {}", false),
            (quote!(), "#[must_use] pub async fn f() {}", false),
            (quote!(), "#[doc(hidden)] pub async fn f() {}", false),
            (quote!(undocumented), "/** . */ pub async fn f() {}", false),
            (quote!(retries = "3"), "/** . */ pub async fn f() {}", false),
        ] {
            let options = args.to_string();
            assert_eq!(added(args, item).is_some(), is_added, "{options}: {item}");
        }
    }

    #[test]
    fn the_example_of_the_documentation_is_what_is_added() {
        let page = include_str!("../../retry-runtime/src/lib.rs");
        let shown: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("/// >")).collect();
        let section = of(quote!(retries = 5, deadlock_retries = 5, isolation = "serializable"));
        let (_, text) = section.split_once("# Transaction").expect("a heading");
        let words = |text: &str| text.replace(['>', '"', ']'], "").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(&shown.join(" ")), words(text));
    }

    #[test]
    fn what_the_options_mean() {
        for (args, says) in [
            (quote!(), "as a transaction at the session's isolation level, and"),
            (quote!(read_only), "as a `READ ONLY` transaction at the session's"),
            (quote!(isolation = "repeatable read"), "as a `REPEATABLE READ` transaction, and"),
            (
                quote!(isolation = "serializable", read_only, deferrable),
                "a `SERIALIZABLE READ ONLY DEFERRABLE` transaction,",
            ),
            (quote!(deadlock_retries = 0), " never after losing to a concurrent transaction (deadlock,"),
            (quote!(deadlock_retries = 1), " once more after losing to a concurrent transaction (deadlock,"),
            (quote!(deadlock_retries = limits::LIMIT), " up to `limits::LIMIT` times more after losing"),
            (quote!(), "up to 5 times more after losing"),
            (quote!(retries = 1), "up to 5 times more after losing"),
            (quote!(retries = 9), "up to 9 times more after losing"),
            (quote!(retries = LIMIT), "up to 5 times more, or `LIMIT` where that is greater, after losing"),
            (quote!(retry_if = is_stale), "lock not available, what `retry_if` accepts)"),
            (quote!(), "(connection lost before `COMMIT`, failover, no free connection), sleeping"),
            (quote!(read_only), "(connection lost, failover,"),
            (quote!(unknown_commit = "retry"), "(connection lost even in `COMMIT`, failover,"),
            (quote!(unknown_commit = "token"), "(connection lost and nothing committed, failover,"),
            (quote!(retry_on = ["23505", "23P01"]), "no free connection, 23505, 23P01)"),
            (quote!(retries = LIMIT), "up to `LIMIT` times more after a failure of the surroundings"),
            (quote!(deadline = "1500ms"), "A call ends within 1.5 s. In"),
            (quote!(queue_by = id), "Calls with a key in common wait for each other."),
            (quote!(deadline = LIMIT), "A call ends within `LIMIT`."),
        ] {
            let (options, section) = (args.to_string(), of(args));
            assert!(section.contains(says), "{options}: {section}");
        }
        assert!(of(quote!()).contains(" in all.  In an open transaction"));
    }

    #[test]
    fn how_long_the_call_sleeps() {
        for (args, conflicts, surroundings) in [
            (quote!(retries = 1, deadlock_retries = 1), "1 ms", "20 ms"),
            // 1, 2, 4, 8, 16, 32 and twice 50 ms.
            (quote!(deadlock_retries = 8, retries = 8), "163 ms", "3.3 s"),
            (quote!(deadlock_retries = 2, retries = 3, max_delay = "4ms"), "5 ms", "140 ms"),
            (quote!(deadlock_retries = 2, retries = 1, base_delay = "250us", max_delay = "250us"), "500 µs", "5 ms"),
            (quote!(deadlock_retries = 1, retries = 2, base_delay = "2m"), "120 s", "4800 s"),
        ] {
            let (options, section) = (args.to_string(), of(args));
            let sleeps: Vec<_> = section.split("sleeping ").skip(1).collect();
            assert!(sleeps[0].starts_with(&format!("{conflicts} at most in all;")), "{options}: {section}");
            assert!(sleeps[1].starts_with(&format!("{surroundings} at most in all.")), "{options}: {section}");
        }
        for constant in
            [quote!(base_delay = DELAY), quote!(max_delay = DELAY), quote!(retries = 0, deadlock_retries = 0)]
        {
            assert!(!of(constant).contains("sleeping"));
        }
    }
}
