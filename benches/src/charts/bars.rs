//! Overhead: a bar per variant, as long as its throughput relative to the baseline.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::style::{BACKGROUND, GRID, INK, legend, text};
use crate::overhead::{Line, Variant};
use crate::summary::Spread;

const WIDTH: u32 = 860;
/// The height of a bar with the gap below it.
const STEP: u32 = 34;
/// Room for the names.
const LEFT: u32 = 150;

/// Draws the blocks of one environment.
pub(crate) fn draw(file: &Path, title: &str, lines: &[Line]) -> anyhow::Result<()> {
    let bars = bars(lines);
    let count = u32::try_from(bars.len())?;
    let root = SVGBackend::new(file, (WIDTH, 110 + STEP * count)).into_drawing_area();
    root.fill(&BACKGROUND)?;
    root.draw(&Text::new(title.to_owned(), (20, 14), text(16, INK, HPos::Left, VPos::Top)))?;
    legend(&root)?;
    let longest = bars.iter().map(|(_, spread)| spread.max).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .margin_top(48)
        .margin_left(LEFT)
        .margin_right(24)
        .x_label_area_size(48)
        .build_cartesian_2d(0.0..longest * 1.08, f64::from(count)..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_labels(8)
        .light_line_style(BACKGROUND)
        .bold_line_style(GRID)
        .axis_style(INK)
        .x_desc("throughput relative to hand-written tokio-postgres: median, lowest and highest of all blocks")
        .label_style(text(13, INK, HPos::Center, VPos::Top))
        .draw()?;
    for (top, (variant, spread)) in (0..).map(f64::from).zip(&bars) {
        let middle = top + 0.5;
        let color = variant.owner().color();
        chart.draw_series([Rectangle::new([(0.0, top + 0.14), (spread.median, top + 0.86)], color.filled())])?;
        let whisker = [(spread.min, middle), (spread.max, middle)];
        chart.draw_series([PathElement::new(whisker, INK.stroke_width(2))])?;
        let (_, y) = chart.backend_coord(&(0.0, middle));
        let name_ends = i32::try_from(LEFT)? - 10;
        root.draw(&Text::new(variant.name(), (name_ends, y), text(14, INK, HPos::Right, VPos::Center)))?;
        let value = (i32::try_from(LEFT)? + 10, y);
        root.draw(&Text::new(format!("{:.2}", spread.median), value, text(14, WHITE, HPos::Left, VPos::Center)))?;
    }
    Ok(root.present()?)
}

/// The ratios of each variant, in the order of the variants.
fn bars(lines: &[Line]) -> Vec<(Variant, Spread)> {
    let ratios = |variant: Variant| -> Vec<f64> {
        lines.iter().filter(|line| line.variant == variant.name()).filter_map(|line| line.ratio).collect()
    };
    let all = Variant::all().iter().map(|&variant| (variant, ratios(variant)));
    all.filter(|(_, ratios)| !ratios.is_empty()).map(|(variant, ratios)| (variant, Spread::of(&ratios))).collect()
}
