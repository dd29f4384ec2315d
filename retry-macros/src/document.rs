//! The section "Transaction" in the documentation of public functions: isolation, retries, and how long a call sleeps.

use std::time::Duration;

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{ExprPath, LitStr, Meta, Visibility};

use crate::args::Args;
use crate::backoff::{BASE_DELAY, DEADLOCK_RETRIES, MAX_DELAY, RETRIES, TRANSIENT_FACTOR, longest_sleep};
use crate::choice::UnknownCommit;
use crate::item::Item;
use crate::value::{Count, Time};

/// A section for the end of the documentation, if the function is public and documented.
pub(crate) fn section(args: &Args, item: &Item) -> Option<TokenStream> {
    let is_doc = |meta: &Meta| matches!(meta, Meta::NameValue(meta) if meta.path.is_ident("doc"));
    let is_public = !matches!(item.vis, Visibility::Inherited);
    if !is_public || !item.attrs.iter().any(|attr| is_doc(&attr.meta)) || args.undocumented.is_some() || args.faulty {
        return None;
    }
    let (conflicts, failures) = (conflicts(args), transient_failures(args));
    let deadline = args.deadline.as_ref().map(|limit| format!("A call ends within {}. ", duration(limit)));
    let queue = args.queue_by.as_ref().map(|_| "Calls with a key in common wait for each other. ");
    let nested = match &args.durable {
        Some(_) => "It cannot be nested: `Ok` means committed.",
        None => "Inside an open transaction it runs as a savepoint, and only the outermost call retries.",
    };
    let text = format!(
        "\n# Transaction\n\nRuns as {}, and retries if it fails:\n\n- {conflicts};\n- {failures}.\n\n{}{}{nested}",
        transaction(args),
        deadline.unwrap_or_default(),
        queue.unwrap_or_default(),
    );
    Some(quote!(#[doc = #text]))
}

/// The kind of transaction: its isolation level and modes.
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

/// The retries after a conflict.
fn conflicts(args: &Args) -> String {
    const CONFLICT: &str =
        "a conflict with a concurrent transaction (deadlock, serialization failure, lock not available)";
    let retry_if = if args.retry_if.is_some() { " or an error that `retry_if` accepts" } else { "" };
    let cause = format!("{CONFLICT}{retry_if}");
    let default = match (&args.deadlock_retries, &args.retries) {
        (Some(retries), _) => return retries_after(&cause, retries, args, 1),
        (None, Some(Count::Path(path))) => {
            return format!("up to {DEADLOCK_RETRIES} times, or {} if that is greater, after {cause}", code(path));
        }
        (None, Some(Count::Literal(retries))) => DEADLOCK_RETRIES.max(*retries),
        (None, None) => DEADLOCK_RETRIES,
    };
    retries_after(&cause, &Count::Literal(default), args, 1)
}

/// The retries after a transient failure, and after the SQLSTATEs of `retry_on`.
fn transient_failures(args: &Args) -> String {
    let closed = match args.unknown_commit.as_ref().map(|choice| choice.value) {
        _ if args.read_only.is_some() => "",
        None | Some(UnknownCommit::Fail) => " before `COMMIT`",
        Some(UnknownCommit::Retry) => " before or during `COMMIT`",
        Some(UnknownCommit::Resolve | UnknownCommit::Token) => " and nothing committed",
    };
    let codes = args.retry_on.as_ref().map(|codes| {
        let codes: Vec<_> = codes.iter().map(LitStr::value).collect();
        format!(" or SQLSTATE {}", codes.join(", "))
    });
    let codes = codes.unwrap_or_default();
    let cause = format!("a transient failure (connection closed{closed}, failover, no free connection){codes}");
    let retries = args.retries.as_ref().unwrap_or(&Count::Literal(RETRIES));
    match &args.retry_for {
        Some(time) => format!("for {} after {cause}", duration(time)),
        None => retries_after(&cause, retries, args, TRANSIENT_FACTOR),
    }
}

/// The retries after `cause`, and how long they sleep if the attribute states no constants. `factor` multiplies each
/// delay.
fn retries_after(cause: &str, retries: &Count, args: &Args, factor: u32) -> String {
    let (retries, times) = match retries {
        Count::Literal(0) => return format!("never after {cause}"),
        Count::Literal(1) => (1, "once".to_owned()),
        Count::Literal(retries) => (*retries, format!("up to {retries} times")),
        Count::Path(path) => return format!("up to {} times after {cause}", code(path)),
    };
    let sleep = || {
        let base = delay(args.base_delay.as_ref(), BASE_DELAY)?;
        let max = delay(args.max_delay.as_ref(), MAX_DELAY.max(base))?;
        let sleep = longest_sleep(base.saturating_mul(factor), max.saturating_mul(factor), retries);
        Some(format!(", sleeping at most {} in total", human(sleep)))
    };
    format!("{times} after {cause}{}", sleep().unwrap_or_default())
}

/// The length of a delay; `None` for a constant.
fn delay(time: Option<&Time>, default: Duration) -> Option<Duration> {
    match time {
        None => Some(default),
        Some(Time::Literal { micros, .. }) => Some(Duration::from_micros(*micros)),
        Some(Time::Path(_)) => None,
    }
}

/// A path as code.
fn code(path: &ExprPath) -> String {
    format!("`{}`", path.to_token_stream().to_string().replace(' ', ""))
}

fn duration(time: &Time) -> String {
    match time {
        Time::Literal { micros, .. } => human(Duration::from_micros(*micros)),
        Time::Path(path) => code(path),
    }
}

/// A duration in the largest unit that fits, rounded up to a tenth.
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
    use crate::parse::parse;

    /// The section that is added to `item`'s documentation, on one line.
    fn added(args: TokenStream, item: &str) -> Option<String> {
        let args = parse(args, &mut Errors::default());
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
    fn a_time_of_retries_is_stated() {
        assert!(of(quote!(retry_for = "15s")).contains("- for 15 s after a transient failure"));
    }

    #[test]
    fn a_durable_function_is_no_savepoint() {
        assert!(of(quote!(durable)).contains("cannot be nested"));
        assert!(!of(quote!(durable)).contains("savepoint") && of(quote!()).contains("savepoint"));
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
            (quote!(), "as a transaction at the session's isolation level, and retries if it fails: "),
            (quote!(read_only), "as a `READ ONLY` transaction at the session's"),
            (quote!(isolation = "repeatable read"), "as a `REPEATABLE READ` transaction, and"),
            (
                quote!(isolation = "serializable", read_only, deferrable),
                "a `SERIALIZABLE READ ONLY DEFERRABLE` transaction,",
            ),
            (quote!(deadlock_retries = 0), " never after a conflict with a concurrent transaction (deadlock,"),
            (quote!(deadlock_retries = 1), " once after a conflict with a concurrent transaction (deadlock,"),
            (quote!(deadlock_retries = limits::LIMIT), " up to `limits::LIMIT` times after a conflict"),
            (quote!(), "up to 5 times after a conflict"),
            (quote!(retries = 1), "up to 5 times after a conflict"),
            (quote!(retries = 9), "up to 9 times after a conflict"),
            (quote!(retries = LIMIT), "up to 5 times, or `LIMIT` if that is greater, after a conflict"),
            (quote!(retry_if = is_stale), "lock not available) or an error that `retry_if` accepts, sleeping"),
            (quote!(), "(connection closed before `COMMIT`, failover, no free connection), sleeping"),
            (quote!(read_only), "(connection closed, failover,"),
            (quote!(unknown_commit = "retry"), "(connection closed before or during `COMMIT`, failover,"),
            (quote!(unknown_commit = "token"), "(connection closed and nothing committed, failover,"),
            (quote!(retry_on = ["23505", "23P01"]), "no free connection) or SQLSTATE 23505, 23P01, sleeping"),
            (quote!(retries = LIMIT), "up to `LIMIT` times after a transient failure"),
            (quote!(deadline = "1500ms"), "A call ends within 1.5 s. Inside"),
            (quote!(queue_by = id), "Calls with a key in common wait for each other."),
            (quote!(deadline = LIMIT), "A call ends within `LIMIT`."),
        ] {
            let (options, section) = (args.to_string(), of(args));
            assert!(section.contains(says), "{options}: {section}");
        }
        assert!(of(quote!()).contains(" in total.  Inside an open transaction"));
    }

    #[test]
    fn how_long_the_call_sleeps() {
        for (args, conflicts, failures) in [
            (quote!(retries = 1, deadlock_retries = 1), "1 ms", "20 ms"),
            // 1, 2, 4, 8, 16, 32 and twice 50 ms.
            (quote!(deadlock_retries = 8, retries = 8), "163 ms", "3.3 s"),
            (quote!(deadlock_retries = 2, retries = 3, max_delay = "4ms"), "5 ms", "140 ms"),
            (quote!(deadlock_retries = 2, retries = 1, base_delay = "250us", max_delay = "250us"), "500 µs", "5 ms"),
            (quote!(deadlock_retries = 1, retries = 2, base_delay = "2m"), "120 s", "4800 s"),
        ] {
            let (options, section) = (args.to_string(), of(args));
            let sleeps: Vec<_> = section.split("sleeping at most ").skip(1).collect();
            assert!(sleeps[0].starts_with(&format!("{conflicts} in total;")), "{options}: {section}");
            assert!(sleeps[1].starts_with(&format!("{failures} in total.")), "{options}: {section}");
        }
        for constant in
            [quote!(base_delay = DELAY), quote!(max_delay = DELAY), quote!(retries = 0, deadlock_retries = 0)]
        {
            assert!(!of(constant).contains("sleeping"));
        }
    }
}
