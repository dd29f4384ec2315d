//! The results of one environment, as a table and as lines of CSV.

use std::time::Duration;

use comfy_table::Table;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::variant::Variant;
use crate::environment::Environment;
use crate::summary::{Spread, milliseconds};

/// One variant in one block, as a line of CSV. Times are in milliseconds.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Line {
    pub(crate) latency: f64,
    pub(crate) disk: f64,
    pub(crate) connections: usize,
    pub(crate) block: usize,
    pub(crate) variant: String,
    pub(crate) transactions: usize,
    /// Transactions per second.
    pub(crate) throughput: f64,
    /// The throughput, relative to the baseline in the same block.
    pub(crate) ratio: Option<f64>,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Line {
    /// Identifies the environment: its blocks share one chart.
    pub(crate) fn title(&self) -> String {
        let Self { connections, latency, disk, .. } = self;
        format!("connections {connections}, latency {latency} ms, disk {disk} ms")
    }
}

/// The blocks of one environment: for each, the latencies of each variant.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) environment: Environment,
    pub(crate) connections: usize,
    pub(crate) variants: &'a [Variant],
    pub(crate) blocks: Vec<Vec<Vec<Duration>>>,
}

impl Report<'_> {
    /// Transactions per second if each took as long as the median one. The mean would include what else the machine
    /// does at times.
    fn throughput(&self, latencies: &[Duration]) -> f64 {
        let seconds: Vec<f64> = latencies.iter().map(Duration::as_secs_f64).collect();
        self.connections as f64 / Spread::of(&seconds).median
    }

    /// The throughput relative to the baseline in the same block.
    fn ratio(&self, block: &[Vec<Duration>], variant: usize) -> Option<f64> {
        let baseline = self.variants.iter().position(|&variant| variant == Variant::BASELINE)?;
        Some(self.throughput(&block[variant]) / self.throughput(&block[baseline]))
    }

    /// One row for each variant.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header(["variant", "per second", "relative to raw", "p50 ms", "p99 ms"]);
        for (index, variant) in self.variants.iter().enumerate() {
            let throughput: Vec<f64> = self.blocks.iter().map(|block| self.throughput(&block[index])).collect();
            let ratios: Vec<f64> = self.blocks.iter().filter_map(|block| self.ratio(block, index)).collect();
            let latencies = histogram(self.blocks.iter().flat_map(|block| &block[index]));
            let [p50, p99] = [0.5, 0.99].map(|quantile| milliseconds(latencies.value_at_quantile(quantile) as f64));
            let (throughput, ratio) = (Spread::of(&throughput), Spread::of(&ratios));
            table.add_row([variant.name(), format!("{throughput:.0}"), format!("{ratio:.2}"), p50, p99]);
        }
        table
    }

    /// One line for each variant in each block.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Line> {
        self.blocks
            .iter()
            .enumerate()
            .flat_map(move |(block, _)| (0..self.variants.len()).map(move |index| self.line(block, index)))
    }

    fn line(&self, block: usize, index: usize) -> Line {
        let latencies = &self.blocks[block][index];
        let quantiles = histogram(latencies);
        Line {
            latency: self.environment.latency.as_secs_f64() * 1e3,
            disk: self.environment.disk.as_secs_f64() * 1e3,
            connections: self.connections,
            block,
            variant: self.variants[index].name(),
            transactions: latencies.len(),
            throughput: self.throughput(latencies),
            ratio: self.ratio(&self.blocks[block], index),
            p50: quantiles.value_at_quantile(0.5) as f64 / 1e3,
            p99: quantiles.value_at_quantile(0.99) as f64 / 1e3,
        }
    }
}

/// In microseconds.
fn histogram<'a>(latencies: impl IntoIterator<Item = &'a Duration>) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).expect("3 is a valid precision");
    for latency in latencies {
        let micros = u64::try_from(latency.as_micros()).expect("a latency fits into 64 bits");
        histogram.record(micros).expect("the histogram resizes itself");
    }
    histogram
}
