//! Which functions have met which faults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::testing::fault::Fault;

const VARIABLE: &str = "RETRY_FAULTS_REPORT";

/// Which functions have met which faults. Its text is a table, which names the functions that have met none.
///
/// ```
/// let report = retry_runtime::testing::report();
/// println!("{report}");
/// assert_eq!(report.without_faults().count(), 0, "functions that were never retried");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report(BTreeMap<String, BTreeSet<String>>);

static REPORT: Mutex<Report> = Mutex::new(Report(BTreeMap::new()));

/// What the calls of this process have met so far.
#[must_use]
pub fn report() -> Report {
    REPORT.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Report {
    /// The functions that were called, and have met no fault.
    pub fn without_faults(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, faults)| faults.is_empty()).map(|(function, _)| &**function)
    }

    /// The report as a JSON object: the names of functions, each with an array of its faults.
    ///
    /// ```json
    /// {"shop::place_order":["deadlock","serialization failure"],"shop::read_orders":[]}
    /// ```
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::json!(self.0).to_string()
    }

    /// Whether it is new.
    fn add(&mut self, function: &str, fault: Option<&str>) -> bool {
        let is_new = !self.0.contains_key(function);
        let faults = self.0.entry(function.to_owned()).or_default();
        fault.map_or(is_new, |fault| faults.insert(fault.to_owned()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: BTreeSet<&String> = self.0.values().flatten().collect();
        let width = self.0.keys().map(|function| function.chars().count()).max().unwrap_or_default();
        let mut header = " ".repeat(width);
        for fault in &columns {
            write!(header, "  {fault}")?;
        }
        writeln!(f, "{}", header.trim_end())?;
        for (function, faults) in &self.0 {
            let mut line = format!("{function:width$}");
            for fault in &columns {
                let mark = if faults.contains(*fault) { "yes" } else { "-" };
                write!(line, "  {mark:0$}", fault.len())?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        let without: Vec<&str> = self.without_faults().collect();
        if !without.is_empty() {
            writeln!(f, "without faults: {}", without.join(", "))?;
        }
        Ok(())
    }
}

/// Functions are in an attempt that a fault hits, or, without a fault, in one that begins.
///
/// # Panics
/// If `RETRY_FAULTS_REPORT` names a folder that cannot be written to.
pub(crate) fn record(functions: &[&'static str], fault: Option<Fault>) {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let mut report = REPORT.lock().unwrap_or_else(PoisonError::into_inner);
    for function in functions {
        let fault = fault.map(Fault::as_str);
        if !report.add(function, fault) {
            continue;
        }
        let folder = || std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(folder) = FOLDER.get_or_init(folder) {
            if let Err(error) = write(folder, function, fault) {
                panic!("{VARIABLE}={}: {error}", folder.display());
            }
        }
    }
}

/// Adds a line to `facts.jsonl`, which all processes share, and makes `report.txt` and `report.json` from it.
fn write(folder: &Path, function: &str, fault: Option<&str>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let facts = folder.join("facts.jsonl");
    let line = serde_json::json!({ "function": function, "fault": fault });
    OpenOptions::new().append(true).create(true).open(&facts)?.write_all(format!("{line}\n").as_bytes())?;
    loop {
        let lines = fs::read_to_string(&facts)?;
        let mut report = Report::default();
        for line in lines.lines() {
            let fact: BTreeMap<String, Option<String>> = serde_json::from_str(line)?;
            let text = |key| fact.get(key).and_then(Option::as_deref);
            report.add(text("function").unwrap_or_default(), text("fault"));
        }
        fs::write(folder.join("report.txt"), report.to_string())?;
        fs::write(folder.join("report.json"), report.to_json())?;
        // Another process may have added a line, and written its report before this one.
        if usize::try_from(fs::metadata(&facts)?.len()).is_ok_and(|length| length == lines.len()) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_table_and_json() {
        let mut report = Report::default();
        assert!(report.add("pay", None) && !report.add("pay", None));
        assert!(report.add("pay", Some("deadlock")) && !report.add("pay", Some("deadlock")));
        assert!(report.add("a \"name\"", None));
        assert!(report.add("ship", Some("connection closed")));
        let table = "          connection closed  deadlock\n\
                     a \"name\"  -                  -\n\
                     pay       -                  yes\n\
                     ship      yes                -\n\
                     without faults: a \"name\"\n";
        assert_eq!(report.to_string(), table);
        assert_eq!(report.to_json(), r#"{"a \"name\"":[],"pay":["deadlock"],"ship":["connection closed"]}"#);
    }
}
