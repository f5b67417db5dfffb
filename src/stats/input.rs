//! Which site a second moment is of: an input, which some matrices of a layer read.
//!
//! | name | read by | file |
//! | --- | --- | --- |
//! | `key` | down | `layer-<l>.safetensors` |
//! | `attention-input` | q, k, v | `layer-<l>.attention-input.safetensors` |
//! | `attended` | o | `layer-<l>.attended.safetensors` |
//! | `mlp-input` | gate, up | `layer-<l>.mlp-input.safetensors` |
//!
//! Where a layer has experts, a file will name one behind its site: `layer-<l>.key.3.safetensors`.

use std::str::FromStr;

use crate::model::{At, Matrix, MatrixId, Model, Site};

/// What some matrices of a layer read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Input {
    /// Of the down projection: the MLP's activations, of width F.
    #[default]
    Key,
    /// Of queries, keys and values: the stream, normalised, of width D.
    AttentionInput,
    /// Of attention's output projection: the heads' results, of width H·E.
    Attended,
    /// Of the MLP's gate and up projection: the stream, normalised, of width D.
    MlpInput,
}

/// An input of one layer. A number alone stands for the keys of that layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerInput {
    /// l.
    pub layer: usize,
    /// Which of the layer's inputs.
    pub input: Input,
}

impl Input {
    /// All there are.
    pub const ALL: [Input; 4] =
        [Input::Key, Input::AttentionInput, Input::Attended, Input::MlpInput];

    /// The name that users give.
    pub fn name(self) -> &'static str {
        match self {
            Input::Key => "key",
            Input::AttentionInput => "attention-input",
            Input::Attended => "attended",
            Input::MlpInput => "mlp-input",
        }
    }

    /// What a matrix reads.
    pub fn of(matrix: Matrix) -> Input {
        match matrix {
            Matrix::Q | Matrix::K | Matrix::V => Input::AttentionInput,
            Matrix::O => Input::Attended,
            Matrix::Gate | Matrix::Up => Input::MlpInput,
            Matrix::Down => Input::Key,
        }
    }

    /// A matrix that reads it, in every family.
    fn reader(self) -> Matrix {
        match self {
            Input::Key => Matrix::Down,
            Input::AttentionInput => Matrix::Q,
            Input::Attended => Matrix::O,
            Input::MlpInput => Matrix::Up,
        }
    }
}

impl FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Input, String> {
        let names = Input::ALL.map(Input::name).join(", ");
        let found = Input::ALL.into_iter().find(|input| input.name() == text);
        found.ok_or_else(|| format!("`{text}` is none of {names}"))
    }
}

impl LayerInput {
    /// Some inputs of some layers, layer by layer.
    pub fn all(layers: &[usize], inputs: &[Input]) -> Vec<LayerInput> {
        let of = |&layer: &usize| inputs.iter().map(move |&input| LayerInput { layer, input });
        layers.iter().flat_map(of).collect()
    }

    /// Where a pass comes by it.
    pub fn site(self) -> Site {
        Site { layer: self.layer, at: At::Input(self.input.reader()) }
    }

    /// Its width in a model.
    pub fn width(self, model: &Model) -> usize {
        model.matrix(MatrixId::new(self.layer, self.input.reader())).w.dims()[1]
    }

    /// What names it in files: the layer's number, with the input behind it unless that is the key.
    pub fn name(self) -> String {
        match self.input {
            Input::Key => self.layer.to_string(),
            input => format!("{}.{}", self.layer, input.name()),
        }
    }

    /// What a [`name`](LayerInput::name) names.
    pub fn named(text: &str) -> Option<LayerInput> {
        let (layer, input) = match text.split_once('.') {
            None => (text, Input::Key),
            Some((layer, input)) => (layer, input.parse().ok()?),
        };
        let found = LayerInput { layer: layer.parse().ok()?, input };
        (found.name() == text).then_some(found) // `01` and `+1` are no names of ours
    }

    /// In words, for people.
    pub fn title(self) -> String {
        match self.input {
            Input::Key => format!("layer {}", self.layer),
            input => format!("layer {}, {}", self.layer, input.name()),
        }
    }
}

impl From<usize> for LayerInput {
    fn from(layer: usize) -> LayerInput {
        LayerInput { layer, input: Input::Key }
    }
}
