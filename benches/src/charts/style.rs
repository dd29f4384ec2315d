//! The colours and fonts of all charts.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(crate) const BACKGROUND: RGBColor = RGBColor(252, 252, 250);
pub(crate) const INK: RGBColor = RGBColor(40, 44, 52);
pub(crate) const GRID: RGBColor = RGBColor(226, 226, 222);
const BASELINE: RGBColor = RGBColor(90, 96, 106);
const PEER: RGBColor = RGBColor(58, 110, 165);
const OURS: RGBColor = RGBColor(205, 92, 20);

/// Who wrote the code behind a bar or point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Baseline,
    Peer,
    Ours,
}

impl Owner {
    pub(crate) fn color(self) -> RGBColor {
        match self {
            Self::Baseline => BASELINE,
            Self::Peer => PEER,
            Self::Ours => OURS,
        }
    }
}

/// Explains the colours, at the top right of a chart.
pub(crate) fn legend(root: &DrawingArea<SVGBackend<'_>, Shift>) -> anyhow::Result<()> {
    let right = i32::try_from(root.dim_in_pixel().0)? - 20;
    for (offset, name, color) in [(0, "#[transactional]", OURS), (125, "peers", PEER), (180, "baseline", BASELINE)] {
        let style = text(14, color, HPos::Right, VPos::Top);
        root.draw(&Text::new(name, (right - offset, 16), style))?;
    }
    Ok(())
}

/// Text of a size and colour. The font family is generic, so every viewer has it.
pub(crate) fn text(size: u32, color: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    TextStyle { color: color.to_backend_color(), ..TextStyle::from(("sans-serif", size)) }
        .pos(Pos::new(horizontal, vertical))
}
