//! Rotary frequencies and their scalings, for both dialects of `config.json`.
//!
//! ```text
//! f_i = 1/θ^(2i/R),  i < R/2      angle = position · f_i
//! linear   f_i / s
//! llama3   λ = 2π/f_i;  λ < C/high: f_i    λ > C/low: f_i/s
//!          between: (1 − t) f_i/s + t f_i,  t = (C/λ − low)/(high − low)
//! yarn     (1 − t) f_i + t f_i/s,  t = clamp((i − a)/(b − a), 0, 1),
//!          a = i(β fast), b = i(β slow),  i(n) = R ln(C/(2πn))/(2 ln θ), the index whose f_i makes
//!          n full turns over C tokens; cos and sin are multiplied by m(mscale)/m(mscale_all_dim),
//!          m(x) = 0.1 x ln s + 1, or by m(1) where one of the two is missing
//! longrope f_i / short_i up to C tokens, longer texts are refused; cos and sin are multiplied by
//!          √(1 + ln s / ln C)
//! ```
//!
//! A model has one table for all layers; or two, one of them for layers with a window; and layers
//! that no table turns.
//!
//! R is the number of rotated elements of a head, C the context length the model was trained with
//! before the scaling (`original_max_position_embeddings`), s the `factor`. Everything here is f32,
//! as in the framework, even where the rest is f64: the tables are part of the model. Source: Su et
//! al. 2021, arXiv:2104.09864; Chen et al. 2023, arXiv:2306.15595 (linear); the model card of
//! Llama 3.1 (llama3); Peng et al. 2023, arXiv:2309.00071 (yarn); Ding et al. 2024,
//! arXiv:2402.13753 (longrope).

use std::f32::consts::TAU;

use serde_json::{Value, json};

use super::config::Config;
use crate::base::{Error, Result};
use crate::ops::rope::{Angles, Pairing};
use crate::tensor::{Compute, Tensor};

/// What configurations of a family say of rotary position encoding.
#[derive(Clone, Copy)]
pub(super) struct RotaryKeys {
    /// R.
    pub dim: RotaryDim,
    /// Which elements of a head form a pair.
    pub pairing: Pairing,
    /// The field that has θ where there is no object of parameters, and the default.
    pub theta: (&'static str, f64),
    /// Which layers are turned, and by which table.
    pub turns: Turns,
}

impl RotaryKeys {
    /// As Llama's.
    pub const FULL: RotaryKeys = RotaryKeys {
        dim: RotaryDim::Full,
        pairing: Pairing::Halves,
        theta: ("rope_theta", 1e4),
        turns: Turns::All,
    };
}

/// How many elements of a head are rotated: R.
#[derive(Clone, Copy)]
pub(super) enum RotaryDim {
    /// All: R = E.
    Full,
    /// The number in this field, or the default, at the frequencies of θ = 10,000, never scaled.
    Elements(&'static str, usize),
    /// The fraction of E in this field, or the default.
    Fraction(&'static str, f64),
}

/// Which layers are turned, and by which table.
#[derive(Clone, Copy)]
pub(super) enum Turns {
    /// All by one.
    All,
    /// All but those that `no_rope_layers` has a 0 for; without it all but every n-th, n in
    /// `no_rope_layer_interval`, or the default.
    AllBut(usize),
    /// Those with a window by a table of θ in this field, or the default; the others by theirs.
    ByWindow(&'static str, f64),
    /// Those with a window alone; all where `sliding_window` is null.
    Windowed,
}

/// Rotary position encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Which elements of a head form a pair.
    pub pairing: Pairing,
    /// f_i, radians a token, R/2 of them.
    pub frequency: Vec<f32>,
    /// Factor of cos and sin.
    pub factor: f32,
}

/// The rotary tables of a model.
pub(super) struct RotaryTables {
    pub tables: Vec<Rotary>,
    /// The table of each layer, if one turns it.
    pub of: Vec<Option<usize>>,
    /// Tokens that a sequence may have: at the scaled frequencies of longer ones we do not compute.
    pub max_positions: usize,
}

/// Sizes that tables depend on.
#[derive(Clone, Copy)]
pub(super) struct RotarySizes<'a> {
    /// E.
    pub head_dim: usize,
    /// Tokens that a sequence may have.
    pub max_positions: usize,
    /// Of each layer.
    pub windows: &'a [Option<usize>],
}

/// Parameters of layers with a window, and of those without, where they differ.
const KINDS: [&str; 2] = ["sliding_attention", "full_attention"];

impl RotaryTables {
    /// From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before it).
    pub fn read(config: &Config, keys: RotaryKeys, sizes: RotarySizes) -> Result<RotaryTables> {
        let windows = sizes.windows;
        let all = windows.iter().map(|_| Some(0));
        let (mut tables, of) = match keys.turns {
            Turns::All => (vec![Table::read(config, keys, None, sizes)?], all.collect()),
            Turns::AllBut(default) => {
                let turned = turned_layers(config, default, windows.len())?;
                let of = turned.into_iter().map(|turned| turned.then_some(0)).collect();
                (vec![Table::read(config, keys, None, sizes)?], of)
            }
            Turns::Windowed => {
                let one = vec![Table::read(config, keys, None, sizes)?];
                match config.get("sliding_window") {
                    None => (one, all.collect()),
                    Some(_) => (one, windows.iter().map(|window| window.map(|_| 0)).collect()),
                }
            }
            Turns::ByWindow(field, default) => {
                let local = RotaryKeys { theta: (field, default), ..keys };
                let [sliding, full] = KINDS;
                let tables = vec![
                    Table::read(config, local, Some(sliding), sizes)?,
                    Table::read(config, keys, Some(full), sizes)?,
                ];
                (tables, windows.iter().map(|w| Some(usize::from(w.is_none()))).collect())
            }
        };
        let limits = tables.iter().map(|table| table.max_positions);
        let max_positions = limits.min().unwrap_or(sizes.max_positions);
        let tables = tables.drain(..).map(|table| table.rotary).collect();
        Ok(RotaryTables { tables, of, max_positions })
    }
}

/// Which layers are turned, by `no_rope_layers` or at an interval.
fn turned_layers(config: &Config, default: usize, layers: usize) -> Result<Vec<bool>> {
    const FIELD: &str = "no_rope_layers"; // despite its name, 1 is with
    let Some(given) = config.get(FIELD) else {
        let n = config.size_or("no_rope_layer_interval", Some(default))?;
        return Ok((0..layers).map(|l| (l + 1) % n != 0).collect());
    };
    let turned = |of: &Value| match of.as_u64() {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    };
    let each: Option<Vec<bool>> =
        given.as_array().and_then(|given| given.iter().map(turned).collect());
    let each = each.filter(|each| each.len() == layers);
    each.ok_or_else(|| config.error(FIELD, format!("is not {layers} times 0 or 1")))
}

/// A table, and how long a sequence it serves.
struct Table {
    rotary: Rotary,
    max_positions: usize,
}

impl Table {
    /// Of layers of a kind, where kinds differ.
    fn read(
        config: &Config,
        keys: RotaryKeys,
        kind: Option<&str>,
        sizes: RotarySizes,
    ) -> Result<Table> {
        let RotarySizes { head_dim, max_positions, .. } = sizes;
        let old = config.object("rope_scaling")?.filter(|old| *old.value != json!({}));
        let new = config.object("rope_parameters")?;
        let scaling = match kind {
            None => old.or(new),
            Some(kind) => match (&new, old) {
                (Some(_), Some(_)) => {
                    let what = "is given beside rope_parameters, for one table of two";
                    return Err(config.error("rope_scaling", what));
                }
                (Some(new), None) => of_kind(new, kind)?,
                (None, old) => old.filter(|_| kind == KINDS[1]),
            },
        };
        let parameter = |field: &str, old: &str, default: f64| match &scaling {
            Some(p) => p.positive_or(field, config.positive_or(old, default)?),
            None => config.positive_or(old, default),
        };
        let (theta_field, theta) = keys.theta;
        let theta = parameter("rope_theta", theta_field, theta)?;
        let (field, elements, theta) = match keys.dim {
            RotaryDim::Full => ("head_dim", head_dim, theta),
            RotaryDim::Elements(field, default) => match config.value.get(field) {
                None => (field, default, 1e4),
                Some(_) => (field, config.size(field)?, 1e4),
            },
            RotaryDim::Fraction(field, default) => {
                let fraction = parameter("partial_rotary_factor", field, default)?;
                (field, (head_dim as f64 * fraction) as usize, theta)
            }
        };
        // The table is allocated before any weight is looked up; 2¹⁶ is far above any real head.
        if elements == 0 || elements % 2 != 0 || elements > head_dim.min(1 << 16) {
            let what = format!(
                "{elements} of a head's {head_dim} elements cannot be rotated, pair by pair"
            );
            return Err(config.error(field, what));
        }
        let unscaled = |i: usize| 1.0 / (theta as f32).powf((2 * i) as f32 / elements as f32);
        let frequency: Vec<f32> = (0..elements / 2).map(unscaled).collect();
        let (Some(scaling), RotaryDim::Full | RotaryDim::Fraction(..)) = (scaling, keys.dim) else {
            let rotary = Rotary { pairing: keys.pairing, frequency, factor: 1.0 };
            return Ok(Table { rotary, max_positions });
        };
        let field = "original_max_position_embeddings";
        let trained = scaling.size_or(field, Some(max_positions))?;
        // As in the framework, the outer field has precedence over that of one table for all.
        let trained = match kind {
            None => config.size_or(field, Some(trained))?,
            Some(_) => trained,
        };
        let lengths = Lengths { trained, scaled: max_positions };
        let scaling_type = rope_type(&scaling)?;
        let (frequency, factor) = scaled(&scaling, scaling_type, frequency, theta, lengths)?;
        // Past the first length queries grow with their position, or frequencies are others.
        let grows = scaling.get("llama_4_scaling_beta").is_some();
        let max_positions = match scaling_type == "longrope" || grows {
            true => max_positions.min(trained),
            false => max_positions,
        };
        Ok(Table { rotary: Rotary { pairing: keys.pairing, frequency, factor }, max_positions })
    }
}

/// The parameters of a kind of layers.
fn of_kind<'a>(parameters: &Config<'a>, kind: &str) -> Result<Option<Config<'a>>> {
    if ["rope_type", "type", "rope_theta"].iter().any(|field| parameters.get(field).is_some()) {
        let what = format!("are of one table, and the model has two: {}", KINDS.join(", "));
        return Err(parameters.error("rope_parameters", what));
    }
    parameters.object(kind)
}

/// Which scaling it is. `type` is what files before transformers 4.45 call `rope_type`, and the
/// first of Phi-3 say `su`, or `yarn`, for longrope.
fn rope_type<'a>(c: &'a Config) -> Result<&'a str> {
    match c.string_or("rope_type", c.string_or("type", "default")?)? {
        "su" => Ok("longrope"),
        "yarn" if c.get("short_factor").is_some() => Ok("longrope"),
        kind => Ok(kind),
    }
}

impl Rotary {
    /// cos and sin for each position of a batch.
    pub fn angles(&self, compute: &Compute, positions: &[usize]) -> Angles {
        let angles: Vec<f32> = positions
            .iter()
            .flat_map(|&p| self.frequency.iter().map(move |f| p as f32 * f))
            .collect();
        let table = |function: fn(f32) -> f32| {
            let values: Vec<f64> =
                angles.iter().map(|&angle| (function(angle) * self.factor).into()).collect();
            Tensor::of(compute, &[positions.len(), self.frequency.len()], &values)
        };
        Angles { cos: table(f32::cos), sin: table(f32::sin), pairing: self.pairing }
    }
}

/// Context lengths in tokens, before a scaling and with it.
#[derive(Clone, Copy)]
struct Lengths {
    trained: usize,
    scaled: usize,
}

/// The scaled frequencies, and the factor of cos and sin.
fn scaled(
    c: &Config,
    kind: &str,
    f: Vec<f32>,
    theta: f64,
    lengths: Lengths,
) -> Result<(Vec<f32>, f32)> {
    let required = |field: &str| match c.get(field) {
        Some(_) => c.positive_or(field, 1.0).map(|n| n as f32),
        None => Err(c.error(field, format!("is missing, and rope_type `{kind}` needs it"))),
    };
    match kind {
        // Dynamic scaling affects only sequences longer than the context, which are refused.
        "default" | "dynamic" => Ok((f, 1.0)),
        "linear" => {
            let s = required("factor")?;
            Ok((f.into_iter().map(|f| f / s).collect(), 1.0))
        }
        "llama3" => {
            let s = required("factor")?;
            let low = required("low_freq_factor")?;
            let high = required("high_freq_factor")?;
            if low > high {
                let what = format!("{low} is above the high_freq_factor, {high}");
                return Err(c.error("low_freq_factor", what));
            }
            let trained = lengths.trained as f32;
            let by_wavelength = |f: f32| match TAU / f {
                wave if wave < trained / high => f,
                wave if wave >= trained / low => f / s,
                wave => {
                    let t = (trained / wave - low) / (high - low);
                    (1.0 - t) * f / s + t * f
                }
            };
            Ok((f.into_iter().map(by_wavelength).collect(), 1.0))
        }
        "yarn" => yarn(c, &f, theta, lengths),
        "longrope" => longrope(c, &f, lengths),
        _ => Err(Error::input(
            &c.path,
            "rope_type",
            format!("`{kind}` is not implemented"),
            "use a model with rope_type default, linear, dynamic, llama3, yarn or longrope",
        )),
    }
}

fn longrope(c: &Config, f: &[f32], lengths: Lengths) -> Result<(Vec<f32>, f32)> {
    const FIELD: &str = "short_factor";
    let number = |x: &Value| x.as_f64().filter(|x| *x > 0.0 && x.is_finite()).map(|x| x as f32);
    let given = c.get(FIELD).and_then(Value::as_array);
    let short: Option<Vec<f32>> = given.and_then(|given| given.iter().map(number).collect());
    let Some(short) = short.filter(|short| short.len() == f.len()) else {
        let what = format!("is not {} numbers above 0, one a frequency", f.len());
        return Err(c.error(FIELD, what));
    };
    let trained = lengths.trained as f64;
    let s = c.positive_or("factor", lengths.scaled as f64 / trained)?;
    let factor = if s <= 1.0 { 1.0 } else { (1.0 + s.ln() / trained.ln()).sqrt() };
    let factor = c.positive_or("attention_factor", factor)?;
    Ok((f.iter().zip(short).map(|(f, short)| f / short).collect(), factor as f32))
}

fn yarn(c: &Config, f: &[f32], theta: f64, lengths: Lengths) -> Result<(Vec<f32>, f32)> {
    let trained = lengths.trained as f64;
    let s = c.positive_or("factor", lengths.scaled as f64 / trained)?;
    let m = |x: f64| if s <= 1.0 { 1.0 } else { 0.1 * x * s.ln() + 1.0 };
    let factor = match (c.get("mscale"), c.get("mscale_all_dim")) {
        (Some(_), Some(_)) => {
            m(c.positive_or("mscale", 1.0)?) / m(c.positive_or("mscale_all_dim", 1.0)?)
        }
        _ => m(1.0),
    };
    let factor = c.positive_or("attention_factor", factor)?;
    let r = (2 * f.len()) as f64;
    let index = |n: f64| r * (trained / (n * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
    let mut a = index(c.positive_or("beta_fast", 32.0)?);
    let mut b = index(c.positive_or("beta_slow", 1.0)?);
    if c.bool_or("truncate", true)? {
        a = a.floor();
        b = b.ceil();
    }
    let a = a.max(0.0) as f32;
    let mut b = b.min(r - 1.0) as f32;
    if a == b {
        b += 0.001; // as in the framework
    }
    let blended = |(i, &f): (usize, &f32)| {
        let t = ((i as f32 - a) / (b - a)).clamp(0.0, 1.0);
        (1.0 - t) * f + t * (f / s as f32)
    };
    Ok((f.iter().enumerate().map(blended).collect(), factor as f32))
}
