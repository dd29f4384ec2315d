//! Retry storms: the share of calls that succeed, over time.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::style::{BACKGROUND, GRID, INK, text};

const WIDTH: u32 = 860;
/// The height of a panel.
const PANEL: u32 = 290;
/// Room for the names of the curves.
const RIGHT: u32 = 170;
/// The length of the time axis.
const SECONDS: f64 = 40.0;
const COLORS: [RGBColor; 5] = [
    RGBColor(90, 96, 106),
    RGBColor(170, 30, 60),
    RGBColor(58, 110, 165),
    RGBColor(60, 140, 80),
    RGBColor(205, 92, 20),
];

/// A value between 0 and 1 for each second.
pub(crate) struct Curve<'a> {
    pub(crate) name: &'a str,
    pub(crate) values: Vec<f64>,
}

/// Draws panels one above the other, each with its caption.
pub(crate) fn draw(folder: &Path, title: &str, panels: &[(String, Vec<Curve<'_>>)]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let file = super::path(folder, "storm-model", title);
    let size = (WIDTH, 40 + PANEL * u32::try_from(panels.len())?);
    let root = SVGBackend::new(&file, size).into_drawing_area();
    root.fill(&BACKGROUND)?;
    root.draw(&Text::new(title.to_owned(), (20, 14), text(16, INK, HPos::Left, VPos::Top)))?;
    let areas = root.margin(36, 0, 0, 0).split_evenly((panels.len(), 1));
    for (area, (caption, curves)) in areas.iter().zip(panels) {
        area.draw(&Text::new(caption.clone(), (20, 6), text(14, INK, HPos::Left, VPos::Top)))?;
        let mut chart = ChartBuilder::on(area)
            .margin_top(30)
            .margin_left(16)
            .margin_right(RIGHT)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..SECONDS, 0.0..1.0)?;
        chart
            .configure_mesh()
            .light_line_style(BACKGROUND)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_desc("seconds since the trouble began")
            .y_desc("calls that succeed")
            .y_labels(6)
            .x_label_formatter(&|second| format!("{second:.0}"))
            .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
            .label_style(text(13, INK, HPos::Center, VPos::Top))
            .draw()?;
        for (index, (curve, color)) in (0..).zip(curves.iter().zip(COLORS)) {
            let points = (0..).map(f64::from).zip(curve.values.iter().copied()).take_while(|(x, _)| *x <= SECONDS);
            chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
            let name = (i32::try_from(WIDTH - RIGHT)? + 16, 40 + 20 * index);
            area.draw(&Text::new(curve.name.to_owned(), name, text(14, color, HPos::Left, VPos::Center)))?;
        }
    }
    Ok(root.present()?)
}
