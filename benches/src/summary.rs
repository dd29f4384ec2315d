//! Summaries of many measurements, and CSV files.

use std::fmt;
use std::fs::OpenOptions;
use std::path::Path;

use serde::Serialize;

/// The median and the extremes of some measurements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Without measurements, all three are `NaN`.
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self { median: f64::NAN, min: f64::NAN, max: f64::NAN };
        };
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) };
        Self { median, min, max }
    }
}

/// As `median [min..max]`, with the precision of the format, or `-` without measurements.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.median.is_nan() {
            return f.write_str("-");
        }
        let precision = f.precision().unwrap_or(2);
        write!(f, "{:.precision$} [{:.precision$}..{:.precision$}]", self.median, self.min, self.max)
    }
}

/// Milliseconds, with two decimals below 10.
pub(crate) fn milliseconds(micros: f64) -> String {
    let milliseconds = micros / 1e3;
    let precision = if milliseconds < 10.0 { 2 } else { 0 };
    format!("{milliseconds:.precision$}")
}

/// Appends lines to a CSV file. A new file gets a header.
pub(crate) fn append_csv(file: &Path, lines: impl Iterator<Item = impl Serialize>) -> anyhow::Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(file)?;
    let is_new = file.metadata()?.len() == 0;
    let mut writer = csv::WriterBuilder::new().has_headers(is_new).from_writer(file);
    for line in lines {
        writer.serialize(line)?;
    }
    Ok(writer.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median_and_the_extremes() {
        assert_eq!(format!("{:.1}", Spread::of(&[3.0, 1.0, 2.0])), "2.0 [1.0..3.0]");
        assert_eq!(format!("{:.1}", Spread::of(&[4.0, 1.0])), "2.5 [1.0..4.0]");
        assert_eq!(Spread::of(&[]).to_string(), "-");
    }
}
