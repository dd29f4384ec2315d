//! Checks each call: compares the result that the caller got with the rows in the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio_postgres::{Client, Error};

use super::call::{Logged, Outcome};
use super::functions::Function;

/// A call that has ended.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: i64,
    pub(crate) function: &'static Function,
    pub(crate) outcome: Outcome,
    pub(crate) log: Logged,
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
}

/// The parts that are in the ledger, by attempt.
pub(crate) type Rows = BTreeMap<i32, BTreeSet<i32>>;

/// Reads the ledger, by call.
pub(crate) async fn ledger(client: &Client) -> Result<HashMap<i64, Rows>, Error> {
    let mut ledger: HashMap<i64, Rows> = HashMap::new();
    let rows = client.query_raw("SELECT call, attempt, part FROM ledger", [0_i32; 0]).await?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await? {
        ledger.entry(row.get(0)).or_default().entry(row.get(1)).or_default().insert(row.get(2));
    }
    Ok(ledger)
}

/// Reports the hot rows whose total differs from the sum in the ledger.
pub(crate) async fn balances(client: &Client) -> Result<Vec<String>, Error> {
    let sql = "SELECT id, total, moved FROM hot
               JOIN LATERAL (SELECT coalesce(sum(delta), 0)::bigint AS moved FROM ledger WHERE hot = id) AS ledger ON true
               WHERE total <> moved";
    let rows = client.query(sql, &[]).await?;
    let text =
        |(id, total, moved): (i32, i64, i64)| format!("hot row {id} holds {total}, but the ledger adds up to {moved}");
    Ok(rows.iter().map(|row| text((row.get(0), row.get(1), row.get(2)))).collect())
}

/// The ways in which a call's result contradicts the ledger. Empty if it is right.
pub(crate) fn faults(record: &Record, rows: &Rows) -> Vec<String> {
    let mut faults: Vec<String> = Vec::new();
    let mut check = |holds: bool, fault: &str| {
        if !holds && !faults.iter().any(|known| known == fault) {
            faults.push(fault.to_owned());
        }
    };
    let repeats = record.function.repeats();
    check(repeats || rows.len() <= 1, "several attempts are committed");
    match &record.outcome {
        Outcome::Committed(attempt) => {
            check(rows.contains_key(attempt), "returned Ok, but is not committed");
            check(rows.keys().all(|other| other <= attempt), "returned Ok, but a later attempt is committed");
        }
        Outcome::Failed(_) => check(rows.is_empty(), "returned an error that means rolled back, but is committed"),
        Outcome::Hung => check(false, "did not end"),
        Outcome::Unknown(_) | Outcome::Dropped => {}
    }
    for (number, parts) in rows {
        let Some(attempt) = record.log.attempts.get(number) else {
            check(false, "an attempt that did not run is committed");
            continue;
        };
        check(!attempt.overran, "an attempt is committed whose body ended after the deadline");
        match &attempt.parts {
            None => check(false, "an attempt is committed whose body did not return Ok"),
            Some(expected) => {
                check(
                    *parts == expected.iter().copied().collect(),
                    "the committed nested calls are not those that returned Ok",
                );
            }
        }
    }
    // Only calls use these sessions, so a call must have left the transaction open.
    let left_open = |event: &String| event.contains("left open");
    check(!record.log.events.iter().any(left_open), "an earlier call left its transaction open");
    hook_faults(record, rows, check);
    faults
}

fn hook_faults(record: &Record, rows: &Rows, mut check: impl FnMut(bool, &str)) {
    let hooks = &record.log.hooks;
    let is_there = |attempt: i32, part: i32| rows.get(&attempt).is_some_and(|parts| parts.contains(&part));
    for (number, (committed, attempt, part)) in hooks.iter().enumerate() {
        let name = if *committed { "on_commit" } else { "on_rollback" };
        check(!hooks[..number].contains(&hooks[number]), &format!("{name} ran twice"));
        check(is_there(*attempt, *part) == *committed, &format!("{name} ran, but the ledger contradicts it"));
    }
    let committed = hooks.iter().filter(|(committed, _, part)| *committed && *part == 0).count();
    match &record.outcome {
        Outcome::Committed(_) | Outcome::Dropped => check(committed <= 1, "on_commit ran for several attempts"),
        _ => check(committed == 0, "on_commit ran, but the call did not return Ok"),
    }
    // Which hooks must have run. Those of an attempt with an unknown outcome need not.
    for (number, attempt) in &record.log.attempts {
        let known = match &record.outcome {
            Outcome::Committed(last) => number == last || !record.function.repeats(),
            Outcome::Failed(_) => !record.function.repeats(),
            _ => false,
        };
        for part in attempt.hooked.iter().filter(|_| known) {
            let due = (is_there(*number, *part), *number, *part);
            check(hooks.contains(&due), if due.0 { "on_commit did not run" } else { "on_rollback did not run" });
        }
    }
}
