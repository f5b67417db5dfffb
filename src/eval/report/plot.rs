//! Numbers with their intervals as lines of a picture, in SVG.
//!
//! ```text
//! label                     97.5
//! ──────────○─────────────[══●═]─     ● the number, [ ] its interval, ○ the unedited model
//! 0        25       50       75      100
//! ```
//!
//! A picture is as wide as a phone's page, so that its text keeps its size there. Its texts are
//! texts and its colours the four below; the page's style sheet, which overrules attributes, gives
//! them the page's font and the colours of light or dark.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::base::{Error, Result, escape};

/// Text and marks: the page's text colour.
pub(super) const INK: RGBColor = RGBColor(0, 0, 0);
/// Lines that only guide the eye.
pub(super) const FAINT: RGBColor = RGBColor(128, 128, 128);
/// What is shown.
pub(super) const ACCENT: RGBColor = RGBColor(0, 0, 255);
/// The page itself.
pub(super) const PAPER: RGBColor = RGBColor(255, 255, 255);

const WIDTH: i32 = 340;
pub(super) const MARGIN: i32 = 14;
const ROW: i32 = 36;
const AXIS: i32 = 22;

/// Characters of a label that surely fit beside its number.
const LABEL: usize = 38;

/// One line of a picture.
pub struct Track {
    /// What it is of.
    pub label: String,
    /// The number, as it is written.
    pub shown: String,
    /// The number.
    pub mean: f64,
    /// Where it lies, if that is known.
    pub interval: Option<[f64; 2]>,
    /// What it was before.
    pub before: Option<f64>,
}

pub(super) type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn = std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Draws numbers from 0 to `most`. The title is for those who hear the page.
///
/// # Errors
///
/// What the library of plots says.
pub fn tracks(title: &str, tracks: &[Track], most: f64) -> Result<String> {
    let height = ROW * tracks.len() as i32 + AXIS;
    let mut svg = String::new();
    {
        let canvas = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32));
        let canvas = canvas.into_drawing_area();
        let drawn = draw(&canvas, tracks, most).and_then(|()| canvas.present());
        drawn.map_err(|e| Error::refused(format!("a plot: {e}"), "report this"))?;
    }
    let named = format!("<svg role=\"img\" aria-label=\"{title}\" ");
    Ok(svg.replacen("<svg ", &named, 1))
}

fn draw(canvas: &Canvas, tracks: &[Track], most: f64) -> Drawn {
    let axis = RangedCoordf64::from(0.0..most);
    let x = |value: f64| axis.map(&value.clamp(0.0, most), (MARGIN, WIDTH - MARGIN));
    let bottom = ROW * tracks.len() as i32;
    for tick in axis.key_points(5) {
        let (at, tick) = (x(tick), (1e6 * tick).round() / 1e6);
        canvas.draw(&PathElement::new([(at, 0), (at, bottom)], FAINT.mix(0.3)))?;
        canvas.draw(&Text::new(format!("{tick}"), (at, bottom + 4), text(HPos::Center)))?;
    }
    for (track, top) in tracks.iter().zip((0..).step_by(ROW as usize)) {
        let line = top + 25;
        let label = shortened(&escape::one_line(&track.label));
        canvas.draw(&Text::new(label, (MARGIN, top + 3), text(HPos::Left)))?;
        let shown = track.shown.clone();
        canvas.draw(&Text::new(shown, (WIDTH - MARGIN, top + 3), text(HPos::Right)))?;
        canvas.draw(&PathElement::new([(x(0.0), line), (x(most), line)], FAINT))?;
        if let Some([low, high]) = track.interval {
            let bar = [(x(low), line - 3), (x(high), line + 3)];
            canvas.draw(&Rectangle::new(bar, ACCENT.mix(0.35).filled()))?;
        }
        if let Some(before) = track.before {
            canvas.draw(&Circle::new((x(before), line), 4, PAPER.filled()))?;
            canvas.draw(&Circle::new((x(before), line), 4, INK))?;
        }
        canvas.draw(&Circle::new((x(track.mean), line), 4, ACCENT.filled()))?;
    }
    Ok(())
}

fn text(across: HPos) -> TextStyle<'static> {
    let font = ("sans-serif", 15).into_font();
    font.color(&INK).pos(Pos::new(across, VPos::Top))
}

fn shortened(label: &str) -> String {
    match label.chars().count() > LABEL {
        true => label.chars().take(LABEL - 1).chain(['…']).collect(),
        false => label.to_owned(),
    }
}
