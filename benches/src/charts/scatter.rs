//! Contention: a point per strategy, its throughput against the latency of its slowest calls.

use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::style::{BACKGROUND, GRID, INK, legend, text};
use crate::contention::{Line, Strategy};
use crate::summary::Spread;

const SIZE: (u32, u32) = (860, 520);
/// Room for the labels at the right.
const RIGHT: u32 = 250;
/// The height of a label.
const LABEL: i32 = 19;

struct Point {
    strategy: Strategy,
    /// The 99.9th percentile of the latency in milliseconds.
    p999: f64,
    /// Relative to the baseline, or in commits per second.
    goodput: f64,
    /// The share of the calls that gave up.
    failed: f64,
}

/// Draws the runs of one scenario.
pub(crate) fn draw(file: &Path, title: &str, lines: &[Line]) -> anyhow::Result<()> {
    let is_relative = lines.iter().all(|line| line.ratio.is_some());
    let points = points(lines, |line| line.ratio.filter(|_| is_relative).unwrap_or(line.goodput));
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&BACKGROUND)?;
    root.draw(&Text::new(title.to_owned(), (20, 14), text(16, INK, HPos::Left, VPos::Top)))?;
    legend(&root)?;
    let xs = range(points.iter().map(|point| point.p999));
    let ys = range(points.iter().map(|point| point.goodput));
    let floor = ys.start;
    let mut chart = ChartBuilder::on(&root)
        .margin_top(48)
        .margin_left(16)
        .margin_right(RIGHT)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(xs.log_scale(), ys.log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(BACKGROUND)
        .bold_line_style(GRID)
        .axis_style(INK)
        .x_desc("latency that 99.9 % of the calls stay below, in ms (left is better)")
        .y_desc(if is_relative { "commits relative to immediate retries" } else { "commits per second" })
        .x_labels(5)
        .x_label_formatter(&|x| tick(*x))
        .y_label_formatter(&|y| tick(*y))
        .label_style(text(13, INK, HPos::Center, VPos::Top))
        .draw()?;
    // A logarithmic axis has no zero: a strategy that committed nothing stands at its lower end.
    let place = |point: &Point| chart.backend_coord(&(point.p999, point.goodput.max(floor)));
    let places: Vec<_> = points.iter().map(place).collect();
    for ((point, place), label) in points.iter().zip(&places).zip(labels(&places)) {
        let color = point.strategy.owner().color();
        let left = i32::try_from(SIZE.0 - RIGHT)? + 26;
        root.draw(&PathElement::new([*place, (left - 6, label)], color.mix(0.35)))?;
        root.draw(&Circle::new(*place, 5, color.filled()))?;
        let name = format!("{} {}{}", point.strategy.name(), tick(point.goodput), failures(point.failed));
        root.draw(&Text::new(name, (left, label), text(14, color, HPos::Left, VPos::Center)))?;
    }
    Ok(root.present()?)
}

/// The medians of each strategy, from the greatest goodput to the least.
fn points(lines: &[Line], goodput: impl Fn(&Line) -> f64) -> Vec<Point> {
    let mut points = Vec::new();
    for &strategy in Strategy::all() {
        let runs: Vec<&Line> = lines.iter().filter(|line| line.strategy == strategy.name()).collect();
        let median =
            |value: &dyn Fn(&Line) -> f64| Spread::of(&runs.iter().map(|line| value(line)).collect::<Vec<_>>()).median;
        if !runs.is_empty() {
            let failed = median(&|line| line.give_ups as f64 / (line.commits + line.give_ups).max(1) as f64);
            points.push(Point { strategy, p999: median(&|line| line.p999), goodput: median(&goodput), failed });
        }
    }
    points.sort_by(|a, b| b.goodput.total_cmp(&a.goodput));
    points
}

/// Heights of the labels, for points from top to bottom. Each label stands beside its point, or below the label before
/// it. Labels that would pass the lower end move up.
fn labels(places: &[(i32, i32)]) -> Vec<i32> {
    let mut heights: Vec<i32> = Vec::new();
    for &(_, y) in places {
        heights.push(heights.last().map_or(y, |above| y.max(above + LABEL)));
    }
    let mut lowest = i32::try_from(SIZE.1).unwrap_or(i32::MAX) - 60;
    for height in heights.iter_mut().rev() {
        *height = lowest.min(*height);
        lowest = *height - LABEL;
    }
    heights
}

/// From the least positive value to the greatest, with some room around them.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values
        .filter(|value| *value > 0.0)
        .fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    if low <= high { low / 1.8..high * 1.8 } else { 1.0..10.0 }
}

/// The share of the calls that gave up, from 1 %: such calls make latencies look short.
fn failures(share: f64) -> String {
    if share >= 0.01 { format!(", {:.0} % fail", share * 100.0) } else { String::new() }
}

/// A number with two decimals below 10.
fn tick(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
