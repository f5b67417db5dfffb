//! How the fields that a row of [`super::families`] names are read: options, sizes, factors,
//! windows.

use super::config::Config;
use crate::base::{Error, Result};
use crate::ops::act::Act;

/// An option that is on or off.
#[derive(Clone, Copy)]
pub(super) enum Flag {
    /// The same in every model of the family.
    Const(bool),
    /// This field of the configuration, with the default where it is absent.
    Config(&'static str, bool),
}

/// What norms add to the variance.
#[derive(Clone, Copy)]
pub(super) enum Eps {
    /// The same in every model of the family.
    Const(f64),
    /// This field of the configuration, with the default where it is absent.
    Config(&'static str, f64),
}

/// A size.
#[derive(Clone, Copy)]
pub(super) enum Dim {
    /// Derived from other sizes.
    Derived,
    /// This field of the configuration; derived where it is absent or null.
    Config(&'static str),
    /// This field of the configuration; the default where it is absent, derived where it is null.
    ConfigOr(&'static str, usize),
    /// This field of the configuration, which must be there.
    Required(&'static str),
    /// The same in every model of the family.
    Const(usize),
}

/// A number by which something is multiplied.
#[derive(Clone, Copy)]
pub(super) enum Factor {
    /// 1.
    One,
    /// √D.
    RootWidth,
    /// This field of the configuration, with the default where it is absent.
    Config(&'static str, f64),
    /// One over this field of the configuration; 1 where it is absent.
    Inverse(&'static str),
}

/// What a number's size does not exceed, by a hyperbolic tangent.
#[derive(Clone, Copy)]
pub(super) enum Cap {
    /// There is none.
    None,
    /// This field of the configuration, with the default where it is absent; none where it is null.
    Config(&'static str, f64),
}

/// The factor of the attention scores.
#[derive(Clone, Copy)]
pub(super) enum ScoreFactor {
    /// 1/√E.
    ByHead,
    /// 1/√E, or 1 where this field is off.
    ByHeadIf(&'static str),
    /// 1/√ of this field of the configuration, with the default where it is absent.
    ByRoot(&'static str, f64),
    /// This field of the configuration, with the default where it is absent.
    Config(&'static str, f64),
}

/// Names of activations that a family reads in its own way.
#[derive(Clone, Copy)]
pub(super) struct Activation {
    pub field: &'static str,
    pub default: &'static str,
    /// Whether `gelu` is the approximation by tanh, as in the first configurations of Gemma.
    pub gelu_is_tanh: bool,
}

/// Which layers use sliding-window attention.
#[derive(Clone, Copy)]
pub(super) enum Windows {
    /// None.
    None,
    /// All. `sliding_window` gives the window in tokens, with the default where it is absent; where
    /// it is null, attention is full.
    Every(Option<usize>),
    /// Those that `layer_types` names, and where it is absent all but every n-th.
    AllBut { window: usize, n: Dim },
    /// If `use_sliding_window` is set, those that `layer_types` names, or all from
    /// `max_window_layers` on.
    Some,
}

impl Flag {
    pub fn read(self, config: &Config) -> Result<bool> {
        match self {
            Flag::Const(value) => Ok(value),
            Flag::Config(field, default) => config.bool_or(field, default),
        }
    }
}

impl Eps {
    pub fn read(self, config: &Config) -> Result<f64> {
        match self {
            Eps::Const(eps) => Ok(eps),
            Eps::Config(field, default) => config.positive_or(field, default),
        }
    }
}

impl Dim {
    pub fn read(self, config: &Config, derived: usize) -> Result<usize> {
        match self {
            Dim::Derived => Ok(derived),
            Dim::Config(field) => config.size_or(field, Some(derived)),
            Dim::ConfigOr(field, default) if config.value.get(field).is_none() => Ok(default),
            Dim::ConfigOr(field, _) => config.size_or(field, Some(derived)),
            Dim::Required(field) => config.size(field),
            Dim::Const(size) => Ok(size),
        }
    }
}

impl Factor {
    pub fn read(self, config: &Config, width: usize) -> Result<f64> {
        match self {
            Factor::One => Ok(1.0),
            Factor::RootWidth => Ok((width as f64).sqrt()),
            Factor::Config(field, default) => config.positive_or(field, default),
            Factor::Inverse(field) => Ok(1.0 / config.positive_or(field, 1.0)?),
        }
    }
}

impl Cap {
    pub fn read(self, config: &Config) -> Result<Option<f64>> {
        let Cap::Config(field, default) = self else { return Ok(None) };
        match config.value.get(field) {
            Some(value) if value.is_null() => Ok(None),
            _ => match config.positive_or(field, default)? {
                // Others cap nothing, or everything.
                c @ 1e-6..=1e6 => Ok(Some(c)),
                c => Err(config.error(field, format!("{c} is no model's cap"))),
            },
        }
    }
}

impl ScoreFactor {
    pub fn read(self, config: &Config, head_dim: usize) -> Result<f64> {
        let by_head = (head_dim as f64).powf(-0.5);
        match self {
            ScoreFactor::ByHead => Ok(by_head),
            ScoreFactor::ByHeadIf(field) => {
                Ok(if config.bool_or(field, true)? { by_head } else { 1.0 })
            }
            ScoreFactor::ByRoot(field, default) => {
                Ok(config.positive_or(field, default)?.powf(-0.5))
            }
            ScoreFactor::Config(field, default) => config.positive_or(field, default),
        }
    }
}

impl Windows {
    /// The window of each layer.
    pub fn read(self, config: &Config, layers: usize) -> Result<Vec<Option<usize>>> {
        let by_default = |window: Option<usize>, sliding: &dyn Fn(usize) -> bool| {
            (0..layers).map(|l| window.is_some() && sliding(l)).collect::<Vec<_>>()
        };
        let (window, sliding) = match self {
            Windows::None => return Ok(vec![None; layers]),
            Windows::Every(default) => {
                return Ok(vec![Windows::tokens(config, default)?; layers]);
            }
            Windows::AllBut { window, n } => {
                let window = Windows::tokens(config, Some(window))?;
                // It may be a word where `layer_types` is there.
                let n = match config.get("layer_types") {
                    None => n.read(config, layers)?,
                    Some(_) => 1,
                };
                (window, by_default(window, &|l| (l + 1) % n != 0))
            }
            Windows::Some if config.bool_or("use_sliding_window", false)? => {
                let window = Windows::tokens(config, Some(4096))?;
                let from = config.number_or("max_window_layers", 28.0)?;
                (window, by_default(window, &|l| l as f64 >= from))
            }
            Windows::Some => (None, vec![false; layers]),
        };
        let sliding = match config.get("layer_types") {
            None => sliding,
            Some(types) => layer_types(config, types, layers)?,
        };
        if window.is_none() && sliding.contains(&true) {
            let what = "asks for sliding_attention, but by sliding_window or use_sliding_window \
                        there is no window";
            return Err(config.error("layer_types", what));
        }
        Ok(sliding.into_iter().map(|sliding| window.filter(|_| sliding)).collect())
    }

    /// The size of the window in tokens; none where the field is null.
    fn tokens(config: &Config, default: Option<usize>) -> Result<Option<usize>> {
        const FIELD: &str = "sliding_window";
        match config.value.get(FIELD) {
            None => Ok(default),
            Some(_) => config.get(FIELD).map(|_| config.size(FIELD)).transpose(),
        }
    }
}

/// Which layers have a window, by `layer_types`.
fn layer_types(config: &Config, types: &serde_json::Value, layers: usize) -> Result<Vec<bool>> {
    let sliding = |name: &serde_json::Value| match name.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    let each: Option<Vec<bool>> =
        types.as_array().and_then(|types| types.iter().map(sliding).collect());
    each.filter(|each| each.len() == layers).ok_or_else(|| {
        let what = format!("is not {layers} times full_attention or sliding_attention");
        config.error("layer_types", what)
    })
}

impl Activation {
    /// Names as the framework has them.
    pub const fn named(field: &'static str, default: &'static str) -> Activation {
        Activation { field, default, gelu_is_tanh: false }
    }

    pub fn read(self, config: &Config) -> Result<Act> {
        match config.string_or(self.field, self.default)? {
            "gelu" if self.gelu_is_tanh => Ok(Act::GeluTanh),
            "gelu" | "gelu_python" => Ok(Act::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Act::GeluTanh),
            "relu" => Ok(Act::Relu),
            "silu" | "swish" => Ok(Act::Silu),
            name => Err(Error::input(
                &config.path,
                self.field,
                format!("`{name}` is not implemented"),
                "use a model with gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu or silu",
            )),
        }
    }
}
