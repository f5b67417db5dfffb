//! What was tried, as marks in a plane: what is gained upwards, what is lost to the left.

use plotters::prelude::*;

use super::plot::{ACCENT, Canvas, Drawn, FAINT, INK, MARGIN, PAPER};
use crate::base::{Error, Result};

const SIZE: (u32, u32) = (560, 420);
/// Pixels beside the axes, for their numbers.
const BESIDE: u32 = 58;

/// A point.
pub struct Mark {
    /// Where.
    pub at: [f64; 2],
    /// How full its colour is, from 0 to 1.
    pub weight: f64,
    /// Whether it is the one that was chosen.
    pub ringed: bool,
}

/// Draws marks of percents upwards; axes are titled.
///
/// # Errors
///
/// What the library of plots says.
pub fn scatter(titles: [&str; 2], marks: &[Mark]) -> Result<String> {
    let mut svg = String::new();
    {
        let canvas = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let drawn = draw(&canvas, titles, marks).and_then(|()| canvas.present());
        drawn.map_err(|e| Error::refused(format!("a plot: {e}"), "report this"))?;
    }
    Ok(svg)
}

fn draw(canvas: &Canvas, [x, y]: [&str; 2], marks: &[Mark]) -> Drawn {
    canvas.fill(&PAPER)?;
    let ends = |i: usize, from: f64| {
        let along = || marks.iter().map(|mark| mark.at[i]);
        [along().fold(from, f64::min), along().fold(from, f64::max)]
    };
    let ([least, most], [lowest, _]) = (ends(0, 0.0), ends(1, 100.0));
    let mut chart = ChartBuilder::on(canvas)
        .margin(MARGIN)
        .x_label_area_size(BESIDE)
        .y_label_area_size(BESIDE)
        .build_cartesian_2d(least - 1.0..most + 1.0, lowest - 3.0..103.0)?;
    let font = ("sans-serif", 14).into_font().color(&INK);
    chart
        .configure_mesh()
        .light_line_style(PAPER)
        .bold_line_style(FAINT.mix(0.3))
        .axis_style(FAINT)
        .label_style(font.clone())
        .axis_desc_style(font)
        .x_desc(x)
        .y_desc(y)
        .draw()?;
    let dot = |mark: &Mark| {
        let fill = ACCENT.mix(0.2 + 0.8 * mark.weight.clamp(0.0, 1.0));
        Circle::new((mark.at[0], mark.at[1]), 5, fill.filled())
    };
    chart.draw_series(marks.iter().map(dot))?;
    let ring = |mark: &Mark| Circle::new((mark.at[0], mark.at[1]), 9, INK.stroke_width(2));
    chart.draw_series(marks.iter().filter(|mark| mark.ringed).map(ring))?;
    Ok(())
}
