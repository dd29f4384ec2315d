//! The report: a table of all runs with its legend, and the checks of money and ledger.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table, TableComponent};
use indicatif::HumanCount;

use crate::outage::OUTAGE;
use crate::run::Run;

const LEGEND: &str = "\
retries    whether the function may retry, here up to 50 times after conflicts
committed  transfers that returned Ok
failed     transfers that returned an error, because of a conflict or the outage
retried    attempts that failed and were repeated
p50, p99   time until Ok, retries included: median and 99th percentile, in ms
seconds    time until all transfers had committed or failed. A failure is quick:
           a run with failures can be shorter because it has done less.";

const OUTAGE_LEGEND: &str = "\
outage     by default, a call gives up after two retries. With retry_for it waits
           until the server is back. Breaker and budget refuse it at once: callers
           do not wait, and the server meets few attempts when it comes back.";

/// Prints the table and the checks. Returns whether all checks passed.
pub(crate) fn print(runs: &[Run]) -> bool {
    println!("\n{}\n\n{LEGEND}", table(runs).trim_fmt());
    if runs.iter().any(|run| run.workload == OUTAGE) {
        println!("{OUTAGE_LEGEND}");
    }
    println!();
    let balances = check("the total of all balances is unchanged", runs, |run| &run.balance_faults);
    let ledger =
        check("each committed transfer is in the ledger once, and no failed one", runs, |run| &run.ledger_faults);
    balances && ledger
}

fn table(runs: &[Run]) -> Table {
    let mut table = Table::new();
    // Without vertical lines it fits into 80 columns.
    table.load_preset(NOTHING).set_style(TableComponent::HeaderLines, '─');
    table.set_header(["workload", "retries", "committed", "failed", "retried", "p50 ms", "p99 ms", "seconds"]);
    for run in runs {
        table.add_row(row(run));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn row(run: &Run) -> [String; 8] {
    let calls = &run.calls;
    let (committed, failed) = (calls.committed.len() as u64, (calls.failed.len() + calls.unknown) as u64);
    let percent = percent(failed, committed + failed);
    [
        run.workload.to_owned(),
        run.retries.to_owned(),
        HumanCount(committed).to_string(),
        format!("{} ({percent})", HumanCount(failed)),
        HumanCount(run.retried).to_string(),
        millis(calls.latency.value_at_quantile(0.5)),
        millis(calls.latency.value_at_quantile(0.99)),
        format!("{:.1}", run.elapsed.as_secs_f64()),
    ]
}

fn millis(micros: u64) -> String {
    format!("{}.{}", micros / 1_000, micros % 1_000 / 100)
}

/// Rounded down; "<1%" instead of 0% unless `part` is 0.
fn percent(part: u64, whole: u64) -> String {
    match part * 100 / whole.max(1) {
        0 if part > 0 => "<1%".to_owned(),
        percent => format!("{percent}%"),
    }
}

/// Prints whether a check passed in every run, and the faults if it did not.
fn check<'a>(what: &str, runs: &'a [Run], faults: impl Fn(&'a Run) -> &'a Vec<String>) -> bool {
    let passed = runs.iter().all(|run| faults(run).is_empty());
    println!("{} {what}", if passed { "✓" } else { "✗ FAILED:" });
    for run in runs {
        for fault in faults(run) {
            println!("    {}, retries {}: {fault}", run.workload, run.retries);
        }
    }
    passed
}
