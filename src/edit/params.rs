//! Parameters of methods as data: from them help, checks, presets and the table in the docs are
//! made.
//!
//! Names are those of the ROME, MEMIT and EasyEdit config files. A method lists its [`Param`]s;
//! [`HparamSet::resolve`](super::hparams::HparamSet::resolve) checks what a file, a preset and
//! settings say against them, and gives the method its [`Params`].

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::{Matrix, MatrixId};
use crate::store::Fingerprint;

/// One parameter of a method.
#[derive(Debug, PartialEq)]
pub struct Param {
    /// The name in config files.
    pub name: &'static str,
    /// What values it takes.
    pub kind: ParamKind,
    /// What holds where no file, preset or setting gives it.
    pub absent: Absent,
    /// What it does, in one sentence.
    pub about: &'static str,
}

/// What values a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamKind {
    /// A list of one layer.
    Layer,
    /// A list of ascending layers.
    Layers,
    /// A layer after which the loss is read.
    LossLayer,
    /// The last layer, which is the only one these methods read the loss after.
    LastLayer,
    /// A whole number from 1.
    Count,
    /// A number in a range.
    Number(Range),
    /// The same, or false or null, which are as nothing.
    NumberOrOff(Range),
    /// The same, or true or false.
    SwitchOrNumber(Range),
    /// Matrices of every layer: one by name, or a list of them, or a list of such of one layer
    /// each.
    Matrices,
    /// True or false.
    Switch,
    /// A file's path.
    File,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// This value alone, as JSON: a choice of the public code that has one answer here.
    Only(&'static str),
}

/// The numbers a parameter may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// From 0.
    FromZero,
    /// Above 0.
    Positive,
    /// From 0, as the weight of a term of the loss.
    Weight,
    /// Added to KKᵀ, and has to show beside it in f64.
    AboveRounding,
    /// 0, or as [`Range::AboveRounding`].
    ZeroOrAboveRounding,
}

/// What holds where a parameter is not given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Absent {
    /// Nothing: it has to be given.
    Needed,
    /// This value, as JSON: the same in the field for all models.
    Default(&'static str),
    /// The method goes on, as these words say.
    Unused(&'static str),
}

/// As a factor of what is added to KKᵀ: f64 resolves 2·10⁻¹⁶ of a sum.
const SMALLEST_RIDGE: f64 = 1e-10;
/// Far above any weight of a term of the loss in use.
const LARGEST_WEIGHT: f64 = 1e6;
/// Far above any hyperparameter in use; sums of its squares are still numbers.
const LARGEST: f64 = 1e12;

impl Range {
    /// What is wrong with a number; `None` where it is in the range.
    pub fn complaint(self, x: f64) -> Option<String> {
        if x > LARGEST {
            return Some(format!("{x:e} is above {LARGEST:e}: sums would overflow"));
        }
        let lost = || format!("{x:e} is below {SMALLEST_RIDGE:e} and would be lost");
        match self {
            Range::Positive | Range::AboveRounding if x == 0.0 => {
                Some("is 0 and has to be above it".to_owned())
            }
            Range::Weight if x > LARGEST_WEIGHT => {
                Some(format!("{x} is above {LARGEST_WEIGHT}: nothing else would count"))
            }
            Range::AboveRounding if x < SMALLEST_RIDGE => Some(lost()),
            Range::ZeroOrAboveRounding if x > 0.0 && x < SMALLEST_RIDGE => Some(lost()),
            _ => None,
        }
    }

    /// The range in words.
    pub fn words(self) -> String {
        match self {
            Range::FromZero => format!("a number from 0 to {LARGEST:e}"),
            Range::Positive => format!("a number above 0, up to {LARGEST:e}"),
            Range::Weight => format!("a number from 0 to {LARGEST_WEIGHT}"),
            Range::AboveRounding => format!("a number from {SMALLEST_RIDGE:e} to {LARGEST:e}"),
            Range::ZeroOrAboveRounding => {
                format!("0, or a number from {SMALLEST_RIDGE:e} to {LARGEST:e}")
            }
        }
    }
}

impl ParamKind {
    /// The kind and range in words.
    pub fn words(self) -> String {
        match self {
            ParamKind::Layer => "a list of one layer".to_owned(),
            ParamKind::Layers => "a list of ascending layers".to_owned(),
            ParamKind::LossLayer => "a layer".to_owned(),
            ParamKind::LastLayer => "the last layer".to_owned(),
            ParamKind::Count => "a whole number from 1".to_owned(),
            ParamKind::Number(range) => range.words(),
            ParamKind::NumberOrOff(range) => format!("{}, or false", range.words()),
            ParamKind::SwitchOrNumber(range) => format!("true, false, or {}", range.words()),
            ParamKind::Matrices => {
                let names: Vec<&str> = Matrix::ALL.iter().map(|matrix| matrix.name()).collect();
                format!("one or a list of {}, or of one layer each, as 5.up", names.join(", "))
            }
            ParamKind::Switch => "true or false".to_owned(),
            ParamKind::File => "a file".to_owned(),
            ParamKind::Choice(words) => words.join(" or "),
            ParamKind::Only(value) => value.to_owned(),
        }
    }
}

impl Absent {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Absent::Needed => "an error, unless a preset has it",
            Absent::Default(value) => value,
            Absent::Unused(meaning) => meaning,
        }
    }
}

/// Checked values of a method's parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params {
    values: BTreeMap<&'static str, Value>,
    layers: Vec<usize>,
    trained: Vec<MatrixId>, // none of methods that train none
}

impl Params {
    /// Of values that were checked, the layers among them, and the matrices that are trained.
    pub(super) fn new(
        values: BTreeMap<&'static str, Value>,
        layers: Vec<usize>,
        trained: Vec<MatrixId>,
    ) -> Params {
        Params { values, layers, trained }
    }

    /// What a method says where nothing is given, in the down projection of the first layer.
    pub(super) fn of_one_layer(given: &[&'static Param]) -> Params {
        let default = |param: &&'static Param| match param.absent {
            Absent::Default(value) => Some((param.name, parsed(value))),
            Absent::Needed | Absent::Unused(_) => None,
        };
        Params::new(given.iter().filter_map(default).collect(), vec![0], vec![MatrixId::down(0)])
    }

    /// Adds all of them to a name for what is made by them.
    pub fn digest(&self, into: &mut Fingerprint) {
        for (name, value) in &self.values {
            into.field(name.as_bytes());
            into.field(value.to_string().as_bytes());
        }
        self.edited().iter().for_each(|id| into.field(id.to_string().as_bytes()));
    }

    /// Which matrices are trained, whatever their layers, ascending; none of methods that train
    /// none.
    pub fn matrices(&self) -> Vec<Matrix> {
        let mut all: Vec<Matrix> = self.trained.iter().map(|id| id.matrix).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The edited matrices, layer by layer: the down projections, of methods that choose none.
    pub fn edited(&self) -> Vec<MatrixId> {
        match self.trained.is_empty() {
            true => self.layers.iter().map(|&l| MatrixId::down(l)).collect(),
            false => self.trained.clone(),
        }
    }

    /// The edited layers, ascending; at least one.
    pub fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// The last edited layer.
    pub fn last_layer(&self) -> usize {
        *self.layers.last().expect("at least one layer is edited")
    }

    /// A number.
    ///
    /// # Panics
    ///
    /// Where the method does not list the parameter, or may go on without it.
    pub fn number(&self, param: &Param) -> f64 {
        number(&self.values[param.name]).expect("was checked")
    }

    /// A number; 0 where it is not given.
    pub fn number_or_zero(&self, param: &Param) -> f64 {
        self.number_if_given(param).unwrap_or_default()
    }

    /// A number, if it is given.
    pub fn number_if_given(&self, param: &Param) -> Option<f64> {
        self.values.get(param.name).map(|x| number(x).expect("was checked"))
    }

    /// A number of what may also be true or false; nothing where it is one of these.
    pub fn number_of_switch(&self, param: &Param) -> Option<f64> {
        self.values.get(param.name).and_then(number)
    }

    /// A whole number; panics as [`number`](Params::number).
    pub fn count(&self, param: &Param) -> usize {
        self.values[param.name].as_u64().expect("was checked") as usize
    }

    /// A whole number, if it is given.
    pub fn count_if_given(&self, param: &Param) -> Option<usize> {
        self.values.get(param.name).and_then(Value::as_u64).map(|n| n as usize)
    }

    /// A text, if it is given.
    pub fn text(&self, param: &Param) -> Option<&str> {
        self.values.get(param.name).and_then(Value::as_str)
    }

    /// Whether one of several words was chosen; none is where it is not given.
    pub fn is(&self, param: &Param, word: &str) -> bool {
        self.values.get(param.name).is_some_and(|x| x == word)
    }

    /// Whether something is switched on; it is off where it is not given.
    pub fn is_on(&self, param: &Param) -> bool {
        self.values.get(param.name).is_some_and(|x| x == &Value::Bool(true))
    }
}

/// The number a JSON value is. YAML readers disagree on 5e-1: some say it is a text.
pub(super) fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// Adds a number to a name for what was computed with it.
pub(super) fn digest_number(x: f64, into: &mut Fingerprint) {
    into.add(&x.to_le_bytes());
}

/// `layers` of methods that edit one.
pub const LAYER: Param = Param {
    name: "layers",
    kind: ParamKind::Layer,
    absent: Absent::Needed,
    about: "The edited layer.",
};
/// `layers` of methods that edit a window.
pub const LAYERS: Param = Param {
    name: "layers",
    kind: ParamKind::Layers,
    absent: Absent::Needed,
    about: "The edited layers; values are searched at the last of them.",
};
/// Which matrices of a layer are trained.
pub const MATRICES: Param = Param {
    name: "matrices",
    kind: ParamKind::Matrices,
    absent: Absent::Default("[\"down\"]"),
    about: "The matrices of each layer that are trained; rewrite_module_tmp names them too.",
};
/// Steps of the value search.
pub const V_NUM_GRAD_STEPS: Param = Param {
    name: "v_num_grad_steps",
    kind: ParamKind::Count,
    absent: Absent::Needed,
    about: "How often the value search looks at the loss, at most.",
};
/// Adam's rate.
pub const V_LR: Param = Param {
    name: "v_lr",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Needed,
    about: "Adam's rate in the value search.",
};
/// Weight of ‖δ‖/‖t₀‖².
pub const V_WEIGHT_DECAY: Param = Param {
    name: "v_weight_decay",
    kind: ParamKind::Number(Range::Weight),
    absent: Absent::Needed,
    about: "Weight of the size of the value's change in the loss.",
};
/// ‖δ‖ ≤ clamp·‖t₀‖.
pub const CLAMP_NORM_FACTOR: Param = Param {
    name: "clamp_norm_factor",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Needed,
    about: "How far a value may move, as a multiple of its norm.",
};
/// κ.
pub const KL_FACTOR: Param = Param {
    name: "kl_factor",
    kind: ParamKind::Number(Range::Weight),
    absent: Absent::Needed,
    about: "Weight of the KL divergence that holds what the subject is.",
};
/// Of methods with one key a fact.
pub const KEY_AVERAGE: Param = Param {
    name: "key_average",
    kind: ParamKind::Choice(&["flat", "grouped"]),
    absent: Absent::Default("\"flat\""),
    about: "How contexts weigh in a key: all the same (ROME's average), or their groups, of which \
            the bare prompt is one (MEMIT's).",
};
/// The layer after which the search reads its loss.
pub const V_LOSS_LAYER: Param = Param {
    name: "v_loss_layer",
    kind: ParamKind::LossLayer,
    absent: Absent::Unused("the last layer"),
    about: "The layer after which the loss is read.",
};
/// Of methods that read the loss after the last layer only.
pub const V_LOSS_LAYER_LAST: Param = Param { kind: ParamKind::LastLayer, ..V_LOSS_LAYER };

/// The word that chooses the prompt's last token.
pub const LAST: &str = "last";
/// Where facts are read and written.
pub const FACT_TOKEN: Param = Param {
    name: "fact_token",
    kind: ParamKind::Choice(&["subject_last", LAST]),
    absent: Absent::Default("\"subject_last\""),
    about: "The token at which facts are read and written: the subject's last or the prompt's.",
};

/// Choices of the public code of which one is made here.
pub const FIXED: [Param; 5] = [
    only("layer_selection", "\"all\""),
    only("context_template_length_params", "[[5,10],[10,10]]"), // others come with contexts
    only("enable_random_prefix_keys", "true"),
    only("enable_prompt_keys", "false"),
    only("original_implementation", "false"),
];

const fn only(name: &'static str, value: &'static str) -> Param {
    let about = "A choice of the public code of which this one is made here.";
    Param { name, kind: ParamKind::Only(value), absent: Absent::Unused("as this one"), about }
}

/// A value that the program itself says.
pub(super) fn parsed(json: &str) -> Value {
    serde_json::from_str(json).expect("JSON, held by a test")
}
