//! The end of the show: a table of all runs, and whether the money is still there.

use std::fmt::Display;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table, TableComponent};
use indicatif::HumanCount;

use crate::run::Run;

/// Prints the table and the checks, and says whether all is well.
pub(crate) fn print(runs: &[Run]) -> bool {
    println!("\n{}\n", table(runs).trim_fmt());
    let balances = check("no money made or lost", runs, |run| &run.balance_faults);
    let ledger = check("each Ok in the ledger exactly once, and no failed call", runs, |run| &run.ledger_faults);
    balances && ledger
}

fn table(runs: &[Run]) -> Table {
    let mut table = Table::new();
    // No vertical lines: so it fits into 80 columns.
    table.load_preset(NOTHING).set_style(TableComponent::HeaderLines, '─');
    table.set_header(["act", "retries", "committed", "failed", "retried", "p50 ms", "p99 ms", "per s"]);
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
    let (committed, failed) = (calls.committed.len() as u64, calls.failed.len() as u64);
    let percent = percent(failed, committed + failed);
    let per_second = u128::from(committed) * 1_000_000 / run.elapsed.as_micros().max(1);
    [
        run.act.name().to_owned(),
        if run.retries { "yes" } else { "no" }.to_owned(),
        HumanCount(committed).to_string(),
        format!("{} ({percent})", HumanCount(failed)),
        HumanCount(run.retried).to_string(),
        millis(calls.latency.value_at_quantile(0.5)),
        millis(calls.latency.value_at_quantile(0.99)),
        HumanCount(u64::try_from(per_second).unwrap_or(u64::MAX)).to_string(),
    ]
}

fn millis(micros: u64) -> String {
    format!("{}.{}", micros / 1_000, micros % 1_000 / 100)
}

/// Rounded down, but never to nothing.
fn percent(part: u64, whole: u64) -> String {
    match part * 100 / whole.max(1) {
        0 if part > 0 => "<1%".to_owned(),
        percent => format!("{percent}%"),
    }
}

/// Prints whether `promise` was kept in every run.
fn check<'a>(promise: impl Display, runs: &'a [Run], faults: impl Fn(&'a Run) -> &'a Vec<String>) -> bool {
    let kept = runs.iter().all(|run| faults(run).is_empty());
    println!("{} {promise}", if kept { "✓" } else { "✗ NOT KEPT:" });
    for run in runs {
        for fault in faults(run) {
            let retries = if run.retries { "with" } else { "without" };
            println!("    {}, {retries} retries: {fault}", run.act.name());
        }
    }
    kept
}
