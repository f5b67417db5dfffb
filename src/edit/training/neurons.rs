//! Training of neurons beside the MLP of the last layer: what they read and what the head reads
//! behind them are computed once, so that a step is the neurons and the head.
//!
//! ```text
//! u (R, D)    what the last MLP reads at the rows that predict      h (R, D)  the stream behind it
//! s = u upᵀ + b      k = act(s), or act(u gateᵀ) ∘ u upᵀ            (R, n)
//! δ = a k downᵀ      z = head(h + δ)                                 a a fixed factor, mostly 1
//! ddown = a dδᵀ k    dk = a dδ down    ds = act'(s) dk    dup = dsᵀ u    db = Σ_r ds
//! ```
//!
//! All but the head is f64 on the host. What joins the stream has to be what the MLP gives:
//! families with a norm or a factor behind it are refused.

use std::sync::Arc;

use faer::Mat;

use super::head;
use crate::base::{Error, Result};
use crate::edit::state::State;
use crate::linalg::least_squares::product;
use crate::memory::{AddedNeurons, NeuronKind};
use crate::model::arch::{Arch, NormPlace};
use crate::model::completion::Completion;
use crate::model::lineage::WeightsName;
use crate::model::mlp::Mlp;
use crate::model::site::Tap;
use crate::model::{At, Batch, LanguageModel, Matrix, Model, Past, Site};
use crate::ops::act::{self, Act};
use crate::ops::loss::RowLoss;
use crate::tensor::{Precision, Tensor};

/// In what is kept of a training.
const NEURONS: &str = "neurons";
/// Tokens that run at a time.
const AT_A_TIME: usize = 2048;

/// What is trained, or its gradient, as matrices in f64.
#[derive(Clone, Debug, PartialEq)]
pub struct NeuronWeights {
    /// (n, D), where the MLP has a gate.
    pub gate: Option<Mat<f64>>,
    /// (n, D).
    pub up: Mat<f64>,
    /// (1, n), where up has a bias.
    pub bias: Option<Mat<f64>>,
    /// (D, n).
    pub down: Mat<f64>,
}

/// Rows of texts that predict their labels.
pub struct LabelRows {
    /// u (R, D).
    pub u: Mat<f64>,
    /// h (R, D).
    pub h: Mat<f64>,
    /// One a row.
    pub labels: Vec<u32>,
}

/// What neurons hold at some rows.
pub struct Held {
    /// What the activation reads (R, n): up's product, or the gate's.
    pub s: Mat<f64>,
    /// What it gives (R, n).
    pub k: Mat<f64>,
    up: Mat<f64>, // (R, n)
}

/// A + f·B.
pub fn plus(a: &Mat<f64>, f: f64, b: &Mat<f64>) -> Mat<f64> {
    Mat::from_fn(a.nrows(), a.ncols(), |i, j| a[(i, j)] + f * b[(i, j)])
}

/// f·A.
pub fn scaled(f: f64, a: &Mat<f64>) -> Mat<f64> {
    Mat::from_fn(a.nrows(), a.ncols(), |i, j| f * a[(i, j)])
}

impl NeuronWeights {
    /// Its matrices, in one order.
    pub fn each(&self) -> impl Iterator<Item = &Mat<f64>> {
        self.gate.iter().chain([&self.up]).chain(self.bias.iter()).chain([&self.down])
    }

    /// The same, to be changed.
    pub fn each_mut(&mut self) -> impl Iterator<Item = &mut Mat<f64>> {
        self.gate
            .iter_mut()
            .chain([&mut self.up])
            .chain(self.bias.iter_mut())
            .chain([&mut self.down])
    }

    /// n.
    pub fn len(&self) -> usize {
        self.up.nrows()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.up.nrows() == 0
    }

    /// ‖ ‖ of all numbers together.
    pub fn norm(&self) -> f64 {
        let squares =
            |m: &Mat<f64>| -> f64 { m.col_iter().flat_map(|c| c.iter()).map(|x| x * x).sum() };
        self.each().map(squares).sum::<f64>().sqrt()
    }

    /// Puts them into a state; nothing where there is none.
    pub fn put(&self, state: &mut State) {
        let matrices = self.each().map(|m| Arc::new(m.clone())).enumerate();
        state.put(NEURONS, matrices.filter(|_| !self.is_empty()).collect());
    }

    /// Takes those of a state, in the layout of others; `None` where they have another.
    pub fn take(state: &mut State, like: &NeuronWeights) -> Option<NeuronWeights> {
        let (matrices, mut all) = (state.take(NEURONS), like.clone());
        if matrices.is_empty() {
            return all.is_empty().then_some(all);
        }
        let count = all.each().count();
        for (own, (_, kept)) in all.each_mut().zip(&matrices) {
            *own = Mat::clone(kept);
        }
        (matrices.len() == count).then_some(all)
    }

    /// As a memory has them, with what they give times a.
    pub fn added(&self, layer: usize, act: Act, kind: NeuronKind, a: f64) -> AddedNeurons {
        let rows = |m: &Mat<f64>| -> Vec<f32> {
            let row = |i: usize| (0..m.ncols()).map(move |j| m[(i, j)] as f32);
            (0..m.nrows()).flat_map(row).collect()
        };
        let [d, n] = [self.down.nrows(), self.down.ncols()];
        let down = (0..n).flat_map(|j| (0..d).map(move |i| (a * self.down[(i, j)]) as f32));
        AddedNeurons {
            made_for: WeightsName::default(),
            kind,
            layer,
            width: self.up.ncols(),
            act,
            gate: self.gate.as_ref().map(rows),
            up: rows(&self.up),
            bias: self.bias.as_ref().map(rows),
            down: down.collect(),
        }
    }
}

/// Refuses families in which the last MLP's output is not what joins the stream.
///
/// # Errors
///
/// That.
pub fn check(arch: &Arch, method: &str) -> Result<()> {
    match arch.norms == NormPlace::Before && arch.scales.residual == 1.0 {
        true => Ok(()),
        false => {
            let what = format!(
                "{method} trains what the last MLP adds to the stream, and in {} a norm or a \
                 factor stands between",
                arch.family
            );
            Err(Error::refused(what, "edit with grace or ft-m"))
        }
    }
}

impl LabelRows {
    /// Of some texts, on the model as it is.
    ///
    /// # Errors
    ///
    /// A device out of memory.
    pub fn read(model: &Model, texts: &[Completion]) -> Result<LabelRows> {
        let labels: Vec<u32> = texts.iter().flat_map(|text| text.labels.clone()).collect();
        let (mut u, mut h) = (Vec::new(), Vec::new());
        let mut rest = texts;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |text: &&Completion| {
                tokens += text.read.len();
                tokens <= AT_A_TIME
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            let batch = Batch::whole(now.iter().map(|text| &text.read));
            let rows = now
                .iter()
                .zip(&batch.seqs)
                .flat_map(|(text, seq)| seq.rows.end - text.labels.len()..seq.rows.end);
            let [own_u, own_h] = states(model, &batch, rows.collect())?;
            u.extend(own_u);
            h.extend(own_h);
            rest = later;
        }
        Ok(LabelRows { u: matrix(&u, model), h: matrix(&h, model), labels })
    }

    /// Adds what trained neurons give to the stream.
    pub fn add(&mut self, neurons: &NeuronWeights, act: Act, a: f64) {
        if !neurons.is_empty() {
            let held = hold(neurons, &self.u, act);
            self.h = plus(&self.h, a, &product(&held.k, &neurons.down));
        }
    }
}

/// u of every token of some texts, one after the other.
///
/// # Errors
///
/// A text the model cannot run; a device out of memory.
pub fn read_states(model: &Model, texts: &[&[u32]]) -> Result<Mat<f64>> {
    let mut all = Vec::new();
    for ids in texts {
        model.arch.check(ids)?;
        let batch = Batch::whole([ids]);
        let [u, _] = states(model, &batch, (0..batch.len()).collect())?;
        all.extend(u);
    }
    Ok(matrix(&all, model))
}

fn states(model: &Model, batch: &Batch, rows: Vec<usize>) -> Result<[Vec<Vec<f64>>; 2]> {
    let layer = model.arch.layers - 1;
    let sites = [At::Input(Matrix::Up), At::Stream].map(|at| Site { layer, at });
    model.compute.run(|| {
        let mut tap = Tap::new(&model.compute, sites.to_vec(), rows);
        model.run(batch, &mut Past::None, &[], &mut tap)?;
        Ok([tap.vectors(0), tap.vectors(1)])
    })
}

fn matrix(rows: &[Vec<f64>], model: &Model) -> Mat<f64> {
    Mat::from_fn(rows.len(), model.arch.width, |i, j| rows[i][j])
}

/// What neurons hold at rows u (R, D).
pub fn hold(neurons: &NeuronWeights, u: &Mat<f64>, act: Act) -> Held {
    let mut up = product(u, &neurons.up);
    if let Some(bias) = &neurons.bias {
        (0..up.ncols()).for_each(|j| up.col_mut(j).iter_mut().for_each(|s| *s += bias[(0, j)]));
    }
    let gate = neurons.gate.as_ref().map(|gate| product(u, gate));
    let [own, s] = [Some(&up), gate.as_ref()].map(|m| m.map(tensor));
    let mut k = tensor(&up);
    act::forward(act, own.as_ref().expect("is there"), s.as_ref(), &mut k);
    let k = from_tensor(&k);
    Held { s: gate.unwrap_or_else(|| up.clone()), up, k }
}

/// The gradient for the neurons, from that for what they hold after the activation, dk (R, n), and
/// for what the activation reads beside that, ds (R, n).
pub fn of_inputs(
    neurons: &NeuronWeights,
    (u, held): (&Mat<f64>, &Held),
    dk: &Mat<f64>,
    ds: Option<&Mat<f64>>,
    act: Act,
) -> NeuronWeights {
    let gated = neurons.gate.is_some();
    let mut dup = tensor(dk);
    let (up, s) = (tensor(&held.up), tensor(&held.s));
    let mut dgate = dup.like(dup.shape());
    act::backward(act, &up, gated.then_some((&s, &mut dgate)), &mut dup);
    let [mut dup, mut dgate] = [&dup, &dgate].map(from_tensor);
    if let Some(ds) = ds {
        let to = if gated { &mut dgate } else { &mut dup };
        *to = plus(to, 1.0, ds);
    }
    let turned = u.transpose().to_owned(); // (D, R)
    let of = |d: &Mat<f64>| product(&d.transpose().to_owned(), &turned);
    let sum = |d: &Mat<f64>, j: usize| d.col(j).iter().sum::<f64>();
    NeuronWeights {
        gate: gated.then(|| of(&dgate)),
        up: of(&dup),
        bias: neurons.bias.as_ref().map(|b| Mat::from_fn(1, b.ncols(), |_, j| sum(&dup, j))),
        down: Mat::zeros(neurons.down.nrows(), neurons.down.ncols()),
    }
}

/// The mean loss over rows, −ln p of their labels, and its gradient for the neurons; `ds` (R, n) is
/// added to the gradient for what the activation reads.
///
/// # Errors
///
/// A device out of memory.
pub fn loss(
    model: &Model,
    rows: &LabelRows,
    neurons: &NeuronWeights,
    (act, a): (Act, f64),
    ds: &dyn Fn(&Held) -> Option<Mat<f64>>,
) -> Result<(f64, NeuronWeights)> {
    let held = hold(neurons, &rows.u, act);
    let x = behind(model, rows, neurons, &held, a)?;
    let weight = 1.0 / rows.labels.len() as f64;
    let of = rows.labels.iter().map(|&target| RowLoss::CrossEntropy { target, weight });
    let (loss, dx) = model.compute.run(|| {
        let (dx, losses) = head::gradient(model, &x, of.collect());
        let sum: f64 = losses.of(0).take(rows.labels.len()).map(|(_, row)| row.loss).sum();
        Ok((sum * weight, dx.to_f64()))
    })?;
    let d = model.arch.width;
    let dx = Mat::from_fn(rows.labels.len(), d, |i, j| a * dx[i * d + j]);
    let dk = product(&dx, &neurons.down.transpose().to_owned());
    let mut gradient = of_inputs(neurons, (&rows.u, &held), &dk, ds(&held).as_ref(), act);
    gradient.down = product(&dx.transpose().to_owned(), &held.k.transpose().to_owned());
    Ok((loss, gradient))
}

/// Whether the likeliest token of every row is its label.
///
/// # Errors
///
/// A device out of memory.
pub fn says_all(
    model: &Model,
    rows: &LabelRows,
    neurons: &NeuronWeights,
    (act, a): (Act, f64),
) -> Result<bool> {
    let held = hold(neurons, &rows.u, act);
    let x = behind(model, rows, neurons, &held, a)?;
    let said = model.compute.run(|| Ok(head::says(model, &x)))?;
    Ok(said.iter().zip(&rows.labels).all(|(said, label)| *said == Some(*label)))
}

/// h + δ (R, D), where the model computes.
fn behind(
    model: &Model,
    rows: &LabelRows,
    neurons: &NeuronWeights,
    held: &Held,
    a: f64,
) -> Result<Tensor> {
    let stream = plus(&rows.h, a, &product(&held.k, &neurons.down));
    let shape = [stream.nrows(), stream.ncols()];
    model.compute.run(|| Ok(Tensor::of(&model.compute, &shape, &by_row(&stream))))
}

fn by_row(m: &Mat<f64>) -> Vec<f64> {
    (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)])).collect()
}

fn tensor(m: &Mat<f64>) -> Tensor {
    Tensor::of(Precision::F64, &[m.nrows(), m.ncols()], &by_row(m))
}

fn from_tensor(t: &Tensor) -> Mat<f64> {
    let [rows, width] = t.dims();
    let values = t.get::<f64>();
    Mat::from_fn(rows, width, |i, j| values[i * width + j])
}

/// The last layer's MLP.
///
/// # Panics
///
/// Where there is none.
pub fn last_mlp(model: &Model) -> &Mlp {
    model.mlp(model.arch.layers - 1).expect("every family has an MLP in each layer")
}
