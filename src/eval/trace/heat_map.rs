//! A heat map as SVG: a row a token, a column a layer, darker where the effect is greater.

use std::fmt::Display;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::base::{Error, Result, escape};

const CELL: i32 = 18;
const LEFT: i32 = 190; // labels of rows
const TOP: i32 = 44;
const RIGHT: i32 = 110; // the scale
const BOTTOM: i32 = 52; // layers

/// A matrix to be drawn.
pub struct HeatMap<'a> {
    /// Above it.
    pub title: &'a str,
    /// A label a row.
    pub labels: &'a [String],
    /// (rows, layers); cells without a number stay empty.
    pub values: &'a [Vec<Option<f64>>],
    /// Red, green, blue of the greatest value; 0 and less are white.
    pub colour: [u8; 3],
}

impl HeatMap<'_> {
    /// The drawing.
    ///
    /// # Errors
    ///
    /// What the plotting library refuses.
    pub fn svg(&self) -> Result<String> {
        let layers = self.values.first().map_or(0, Vec::len) as i32;
        let (width, height) = (CELL * layers, CELL * self.values.len() as i32);
        let size = ((LEFT + width.max(240) + RIGHT) as u32, (TOP + height + BOTTOM) as u32);
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            area.fill(&WHITE).map_err(refused)?;
            self.cells(&area).map_err(refused)?;
            self.words(&area, (width, height)).map_err(refused)?;
            self.scale(&area, LEFT + width + 24).map_err(refused)?;
            area.present().map_err(refused)?;
        }
        Ok(svg)
    }

    fn top(&self) -> f64 {
        self.values.iter().flatten().flatten().fold(0.0, |top, &x| x.max(top))
    }

    /// Between white and the colour.
    fn shade(&self, part: f64) -> RGBColor {
        let part = part.clamp(0.0, 1.0);
        let [r, g, b] = self.colour.map(|c| (255.0 + (f64::from(c) - 255.0) * part).round() as u8);
        RGBColor(r, g, b)
    }

    fn cells(&self, area: &Canvas) -> Drawn {
        let top = self.top().max(f64::MIN_POSITIVE);
        for (i, row) in self.values.iter().enumerate() {
            for (l, value) in row.iter().enumerate() {
                let (x, y) = (LEFT + CELL * l as i32, TOP + CELL * i as i32);
                let corners = [(x, y), (x + CELL, y + CELL)];
                if let Some(value) = value {
                    let shade = self.shade(value / top);
                    area.draw(&Rectangle::new(corners, shade.filled()))?;
                }
                area.draw(&Rectangle::new(corners, RGBColor(225, 225, 225)))?;
            }
        }
        Ok(())
    }

    fn words(&self, area: &Canvas, (width, height): (i32, i32)) -> Drawn {
        let title = style(16, HPos::Left, VPos::Center);
        write(area, self.title, (LEFT, TOP / 2), title)?;
        for (i, label) in self.labels.iter().enumerate() {
            let at = (LEFT - 8, TOP + CELL * i as i32 + CELL / 2);
            write(area, label, at, style(13, HPos::Right, VPos::Center))?;
        }
        let below = style(12, HPos::Center, VPos::Top);
        for l in (0..width / CELL).step_by(5) {
            let at = (LEFT + CELL * l + CELL / 2, TOP + height + 6);
            write(area, &l.to_string(), at, below.clone())?;
        }
        write(area, "layer", (LEFT + width / 2, TOP + height + 28), below)
    }

    /// A bar from white to the colour, with its numbers.
    fn scale(&self, area: &Canvas, left: i32) -> Drawn {
        const STEPS: i32 = 20;
        const STEP: i32 = 4;
        for step in 0..STEPS {
            let y = TOP + STEP * (STEPS - 1 - step);
            let shade = self.shade(f64::from(step) / f64::from(STEPS - 1));
            area.draw(&Rectangle::new([(left, y), (left + 12, y + STEP)], shade.filled()))?;
        }
        let beside = style(12, HPos::Left, VPos::Center);
        let number = format!("{:.3}", self.top());
        write(area, &number, (left + 18, TOP + 5), beside.clone())?;
        write(area, "0", (left + 18, TOP + STEP * STEPS - 5), beside)
    }
}

type Canvas<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn style(size: i32, across: HPos, along: VPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&BLACK).pos(Pos::new(across, along))
}

/// A text of others: one line, without what XML refuses.
fn write(area: &Canvas, text: &str, at: (i32, i32), style: TextStyle<'_>) -> Drawn {
    area.draw(&Text::new(escape::one_line(text).into_owned(), at, style))
}

fn refused(e: impl Display) -> Error {
    Error::refused(format!("the plot cannot be drawn: {e}"), "take the numbers from the JSON file")
}
