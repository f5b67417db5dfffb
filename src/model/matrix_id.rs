//! Which matrix of a model: a name that users write and that files hold.
//!
//! ```text
//! layers.5.down                 the usual form
//! layers.5.branches.1.down      of the second MLP in layer 5
//! layers.5.experts.3.down       of expert 3
//! ```

use std::fmt;
use std::str::FromStr;

use super::matrix::Matrix;

/// Which matrix of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MatrixId {
    /// Which of the model's stacks of layers.
    pub stack: Stack,
    /// l.
    pub layer: usize,
    /// Which of the layer's branches that have such a matrix, from 0. No family so far has two.
    pub branch: usize,
    /// Which expert, where the branch has a matrix an expert. No family so far has any.
    pub expert: Option<usize>,
    /// What it does.
    pub matrix: Matrix,
}

/// A stack of layers. A model with an encoder has one more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stack {
    /// That which generates; its name is left out.
    #[default]
    Decoder,
}

impl MatrixId {
    /// A matrix of layer l, in its first branch that has one.
    pub fn new(layer: usize, matrix: Matrix) -> MatrixId {
        MatrixId { stack: Stack::Decoder, layer, branch: 0, expert: None, matrix }
    }

    /// The down projection of layer l.
    pub fn down(layer: usize) -> MatrixId {
        MatrixId::new(layer, Matrix::Down)
    }
}

impl fmt::Display for MatrixId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let MatrixId { stack: Stack::Decoder, layer, branch, expert, matrix } = self;
        write!(f, "layers.{layer}")?;
        if *branch > 0 {
            write!(f, ".branches.{branch}")?;
        }
        if let Some(expert) = expert {
            write!(f, ".experts.{expert}")?;
        }
        write!(f, ".{}", matrix.name())
    }
}

impl FromStr for MatrixId {
    type Err = String;

    fn from_str(text: &str) -> Result<MatrixId, String> {
        let wrong = || format!("`{text}` is no matrix, as `layers.5.down` is");
        let mut parts = text.split('.').peekable();
        let mut number = |word: &str| {
            parts.next_if_eq(&word)?;
            // Only what is written back the same: no sign, no zeros in front.
            let digits = parts.next()?;
            digits.parse::<usize>().ok().filter(|n| n.to_string() == digits)
        };
        let layer = number("layers").ok_or_else(wrong)?;
        let branch = number("branches").unwrap_or(0);
        let expert = number("experts");
        let name = parts.next().ok_or_else(wrong)?;
        let matrix = Matrix::ALL.into_iter().find(|m| m.name() == name).ok_or_else(wrong)?;
        let id = MatrixId { branch, expert, ..MatrixId::new(layer, matrix) };
        if parts.next().is_some() || id.to_string() != text {
            return Err(wrong());
        }
        Ok(id)
    }
}
