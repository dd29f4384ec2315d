//! Options that contradict each other, or that could never take effect.
//!
//! This compares only values that the attribute states. The runtime's `Policy::validate` compares the same at compile
//! time, constants and defaults included, but it can only point at the whole attribute.

use proc_macro2::Ident;

use crate::args::Args;
use crate::choice::{Isolation, Queue, UnknownCommit};
use crate::error::Errors;
use crate::value::{Count, Time};

/// Refuses contradictions. `seen` holds the keys of all options, also of those with a faulty value: they have an error
/// already, and no second one because of it.
pub(crate) fn check(args: &Args, seen: &[Ident], errors: &mut Errors) {
    check_transaction(args, seen, errors);
    check_twin(args, seen, errors);
    check_queue(args, seen, errors);
    check_delays(args, errors);
    check_budgets(args, seen, errors);
}

fn check_transaction(args: &Args, seen: &[Ident], errors: &mut Errors) {
    if let Some(deferrable) = &args.deferrable {
        let serializable = match &args.isolation {
            Some(level) => level.value == Isolation::Serializable,
            None => seen.iter().any(|key| key == "isolation"),
        };
        if !serializable || args.read_only.is_none() {
            errors.at(
                &deferrable.key,
                "`deferrable` has an effect only together with `read_only` and `isolation = \"serializable\"`",
            );
        }
    }
    if let (Some(_), Some(unknown_commit)) = (&args.read_only, &args.unknown_commit) {
        if matches!(unknown_commit.value, UnknownCommit::Resolve | UnknownCommit::Token) {
            errors.at(
                &unknown_commit.token,
                "a `read_only` transaction has no outcome to look up, and is simply retried; remove `unknown_commit`",
            );
        }
    }
}

fn check_twin(args: &Args, seen: &[Ident], errors: &mut Errors) {
    let Some(within) = &args.within else { return };
    if !seen.iter().any(|key| key == "source") {
        errors.at(
            within,
            "`within` adds a twin that takes a source, which this function does already; remove `within`, or add `source`",
        );
    }
    if args.durable.is_some() {
        errors.at(within, "`within` is for nested calls, which `durable` refuses; remove one of them");
    }
}

fn check_queue(args: &Args, seen: &[Ident], errors: &mut Errors) {
    let Some(queue) = &args.queue else { return };
    if !seen.iter().any(|key| key == "queue_by") {
        errors.at(&queue.token, "`queue` says where the queues of `queue_by` are; add `queue_by`, or remove `queue`");
    }
    if args.read_only.is_some() && queue.value == Queue::Server {
        errors.at(
            &queue.token,
            "`queue = \"server\"` locks tables, which the server refuses in a `read_only` transaction",
        );
    }
}

fn check_delays(args: &Args, errors: &mut Errors) {
    let Some(Time::Literal { micros: base, token }) = &args.base_delay else { return };
    if matches!(&args.max_delay, Some(Time::Literal { micros: max, .. }) if max < base) {
        errors.at(token, "`base_delay` is longer than `max_delay`");
    }
    if let Some(Time::Literal { micros: deadline, token }) = &args.deadline {
        if deadline < base {
            errors.at(token, "`deadline` is shorter than `base_delay`, so it leaves no time for a retry");
        }
    }
}

fn check_budgets(args: &Args, seen: &[Ident], errors: &mut Errors) {
    if let (Some(Count::Literal(0)), Some(codes)) = (&args.retries, &args.retry_on) {
        errors.at(&codes[0], "`retry_on` never takes effect: it uses `retries`, which is 0");
    }
    let Some(Count::Literal(budget)) = args.deadlock_retries else { return };
    if let (0, Some(retry_if)) = (budget, &args.retry_if) {
        errors.at(retry_if, "`retry_if` never takes effect: it uses `deadlock_retries`, which is 0");
    }
    if matches!(args.escalate_after, Some(Count::Literal(after)) if after > budget) {
        let key = seen.iter().find(|key| *key == "escalate_after");
        let budget = format!("`deadlock_retries`, which is {budget}");
        errors.at(key, format_args!("`escalate_after` never takes effect: it is greater than {budget}"));
    }
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use crate::parse::tests::faults;

    #[test]
    fn contradictions_are_refused() {
        assert_eq!(faults(quote!(base_delay = "2ms", max_delay = "1ms")), ["`base_delay` is longer than `max_delay`"]);
        assert_eq!(faults(quote!(base_delay = "2ms", max_delay = "2ms")), [""; 0]);
        for (one, fault) in [
            (quote!(deadline = "1ms", base_delay = "2ms"), "`deadline` is shorter"),
            (quote!(retries = 0, retry_on = ["23505"]), "`retry_on` never takes effect: it uses `retries`, which is 0"),
            (
                quote!(deadlock_retries = 0, retry_if = is_stale),
                "`retry_if` never takes effect: it uses `deadlock_retries`, which is 0",
            ),
            (
                quote!(deadlock_retries = 2, escalate_after = 3),
                "`escalate_after` never takes effect: it is greater than `deadlock_retries`, which is 2",
            ),
            (quote!(read_only, unknown_commit = "token"), "a `read_only` transaction"),
            (
                quote!(within = debit_within),
                "`within` adds a twin that takes a source, which this function does already",
            ),
            (
                quote!(source = POOL, within = debit_within, durable),
                "`within` is for nested calls, which `durable` refuses",
            ),
            (quote!(queue = "server"), "`queue` says where the queues of `queue_by` are"),
            (quote!(queue = "process", retries = 1), "`queue` says where the queues of `queue_by` are"),
            (quote!(queue_by = id, queue = "server", read_only), "`queue = \"server\"` locks tables"),
            (quote!(isolation = "read uncommitted"), "PostgreSQL runs `read uncommitted`"),
            (quote!(propagation = "nested"), "unknown option `propagation`; a nested call"),
        ] {
            let faults = faults(one);
            assert!(faults.len() == 1 && faults[0].starts_with(fault), "{faults:?}");
        }
        for one in [quote!(deferrable), quote!(deferrable, read_only), quote!(deferrable, isolation = "serializable")] {
            assert!(faults(one)[0].starts_with("`deferrable` has an effect only"));
        }
    }

    #[test]
    fn constants_and_defaults_are_left_to_the_runtime() {
        for one in [
            quote!(deadlock_retries = 7, escalate_after = 7),
            quote!(deadlock_retries = LIMIT, escalate_after = 7),
            quote!(retries = 1, escalate_after = 7),
            quote!(escalate_after = 7),
            quote!(read_only, deadlock_retries = LIMIT, retry_if = is_stale),
            quote!(base_delay = "2m", max_delay = LIMIT, deadline = LIMIT),
            quote!(base_delay = "2m"),
            quote!(queue_by = id, queue = "process", read_only),
        ] {
            let text = one.to_string();
            assert_eq!(faults(one), [""; 0], "{text}");
        }
    }

    /// A faulty value has its own error, and the other options are not blamed for it.
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
            quote!(source =, within = debit_within),
            quote!(queue_by = , queue = "server"),
            quote!(queue_by = id, queue = server, read_only),
            quote!(within = "debit_within"),
        ] {
            let text = one.to_string();
            assert_eq!(faults(one).len(), 1, "{text}");
        }
    }
}
