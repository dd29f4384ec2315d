//! Whether the callers were told the truth: what they learned, beside what is in the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio_postgres::{Client, Error};

use super::call::{Logged, Verdict};
use super::functions::Function;

/// A call that is over.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: i64,
    pub(crate) function: &'static Function,
    pub(crate) verdict: Verdict,
    pub(crate) log: Logged,
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
}

/// The parts in the ledger, by attempt.
pub(crate) type Rows = BTreeMap<i32, BTreeSet<i32>>;

/// The ledger, by call.
pub(crate) async fn ledger(client: &Client) -> Result<HashMap<i64, Rows>, Error> {
    let mut ledger: HashMap<i64, Rows> = HashMap::new();
    let rows = client.query_raw("SELECT call, attempt, part FROM ledger", [0_i32; 0]).await?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await? {
        ledger.entry(row.get(0)).or_default().entry(row.get(1)).or_default().insert(row.get(2));
    }
    Ok(ledger)
}

/// The hot rows that do not hold what the ledger says.
pub(crate) async fn money(client: &Client) -> Result<Vec<String>, Error> {
    let sql = "SELECT id, total, moved FROM hot
               JOIN LATERAL (SELECT coalesce(sum(delta), 0)::bigint AS moved FROM ledger WHERE hot = id) AS ledger ON true
               WHERE total <> moved";
    let rows = client.query(sql, &[]).await?;
    let text = |(id, total, moved): (i32, i64, i64)| format!("row {id} holds {total}, and the ledger says {moved}");
    Ok(rows.iter().map(|row| text((row.get(0), row.get(1), row.get(2)))).collect())
}

/// What is wrong with what the caller was told.
pub(crate) fn faults(record: &Record, rows: &Rows) -> Vec<String> {
    let mut faults: Vec<String> = Vec::new();
    let mut check = |holds: bool, fault: &str| {
        if !holds && !faults.iter().any(|known| known == fault) {
            faults.push(fault.to_owned());
        }
    };
    let repeats = record.function.repeats();
    check(repeats || rows.len() <= 1, "committed several times");
    match &record.verdict {
        Verdict::Committed(attempt) => {
            check(rows.contains_key(attempt), "Ok, and not committed");
            check(rows.keys().all(|other| other <= attempt), "Ok, and a later attempt is committed");
        }
        Verdict::Failed(_) => check(rows.is_empty(), "an error that says rolled back, and committed"),
        Verdict::Hung => check(false, "never came to an end"),
        Verdict::Unknown(_) | Verdict::Dropped => {}
    }
    for (number, parts) in rows {
        let Some(attempt) = record.log.attempts.get(number) else {
            check(false, "committed an attempt that did not run");
            continue;
        };
        check(!attempt.overran, "COMMIT was sent after the deadline");
        match &attempt.parts {
            None => check(false, "committed a body that did not return Ok"),
            Some(expected) => {
                check(*parts == expected.iter().copied().collect(), "committed other nested calls than returned Ok");
            }
        }
    }
    // Only calls use these sessions.
    let left_open = |event: &String| event.contains("left open");
    check(!record.log.events.iter().any(left_open), "a call before left its transaction open");
    hook_faults(record, rows, check);
    faults
}

fn hook_faults(record: &Record, rows: &Rows, mut check: impl FnMut(bool, &str)) {
    let hooks = &record.log.hooks;
    let is_there = |attempt: i32, part: i32| rows.get(&attempt).is_some_and(|parts| parts.contains(&part));
    for (number, (committed, attempt, part)) in hooks.iter().enumerate() {
        let name = if *committed { "on_commit" } else { "on_rollback" };
        check(!hooks[..number].contains(&hooks[number]), &format!("{name} ran twice"));
        check(is_there(*attempt, *part) == *committed, &format!("{name} ran, and the rows say otherwise"));
    }
    let committed = hooks.iter().filter(|(committed, _, part)| *committed && *part == 0).count();
    match &record.verdict {
        Verdict::Committed(_) | Verdict::Dropped => check(committed <= 1, "on_commit ran for several attempts"),
        _ => check(committed == 0, "on_commit ran, and the call did not return Ok"),
    }
    // Which hooks have to run: none of an attempt whose outcome is unknown.
    for (number, attempt) in &record.log.attempts {
        let known = match &record.verdict {
            Verdict::Committed(last) => number == last || !record.function.repeats(),
            Verdict::Failed(_) => !record.function.repeats(),
            _ => false,
        };
        for part in attempt.hooked.iter().filter(|_| known) {
            let due = (is_there(*number, *part), *number, *part);
            check(hooks.contains(&due), if due.0 { "on_commit did not run" } else { "on_rollback did not run" });
        }
    }
}
