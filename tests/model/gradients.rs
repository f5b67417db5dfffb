//! Gradients of every kind of matrix against central differences of the loss, in f64; and what two
//! passes add up to.

use incise::edit::training::passes::passes;
use incise::edit::training::step::{MoveRule, Trainer};
use incise::edit::training::texts::TrainingText;
use incise::linalg::vector::norm;
use incise::model::Matrix::{Down, Gate, K, O, Q, Up, V};
use incise::model::{Matrix, MatrixId, Model};
use incise::ops::weight_gradient::PIECE;
use incise::tensor::Precision;

use crate::support::budget::{self, along, inner};
use crate::support::golden::Golden;
use crate::support::toy::Draw;
use crate::support::twin;

const RULE: MoveRule = MoveRule { lr: 1e-3, weight_decay: 0.0, bound: None };

/// Families, and what tells their matrices: q, k and v in one tensor, one after the other or by
/// head, in parallel to the MLP; a gate; groups of heads; norms behind the branches.
const CASES: [(&str, &[Matrix]); 6] = [
    ("gpt2", &[Q, K, V, O, Up, Down]),
    ("gptj", &[Q, K, V, O, Up, Down]),
    ("neox", &[Q, K, V, O, Up, Down]),
    ("llama-tied", &[Q, K, V, O, Gate, Up, Down]),
    ("qwen3", &[Q, K, V, O, Gate, Up, Down]),
    ("olmo2", &[Q, K, V, O, Gate, Up, Down]),
];

/// Texts of unequal lengths, of which several tokens are wanted, one or two at a time.
fn texts(model: &Model, draw: &mut Draw, lengths: &[usize]) -> Vec<TrainingText> {
    let v = model.arch.vocabulary;
    let text = |&n: &usize| {
        let ids = (0..n).map(|_| draw.below(v) as u32).collect();
        let mut wanted: Vec<(usize, u32)> =
            (n / 2..n).map(|at| (at, draw.below(v) as u32)).collect();
        wanted.push((n - 1, draw.below(v) as u32));
        TrainingText { ids, wanted }
    };
    lengths.iter().map(text).collect()
}

/// The mean loss of all texts.
fn loss(model: &Model, texts: &[TrainingText]) -> f64 {
    let ids = [MatrixId::down(0)];
    let mut trainer = Trainer::new(model, &ids, texts, RULE, usize::MAX);
    let all: Vec<usize> = (0..texts.len()).collect();
    let losses = trainer.gradient(&all).unwrap();
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// The slope of the loss along a direction V of W is ⟨dW, V⟩.
#[test]
fn gradients_are_slopes_of_the_loss() {
    for (name, matrices) in CASES {
        let model = Golden::open(name).model(Precision::F64);
        let mut draw = Draw::new(name, false);
        let texts = texts(&model, &mut draw, &[7, 3, 11]);
        let ids: Vec<MatrixId> = matrices.iter().map(|&m| MatrixId::new(1, m)).collect();
        let mut trainer = Trainer::new(&model, &ids, &texts, RULE, usize::MAX);
        trainer.gradient(&[0, 1, 2]).unwrap();
        for (i, &id) in ids.iter().enumerate() {
            let w = model.matrix(id).w.to_dense::<f64>();
            let gradient = trainer.gradients()[i].to_f64();
            // Half at random, and half where the loss is steep, so that the slope is one.
            let unit = |v: &[f64]| v.iter().map(|x| x / norm(v)).collect::<Vec<_>>();
            let direction = along(&unit(&draw.normal(w.len())), 1.0, &unit(&gradient));
            let at = |t: f64| loss(&model.with_values(id, along(&w, t, &direction)), &texts);
            // A loss is off by some roundings of each layer's sums.
            let noise = 64.0 * model.arch.layers as f64 * f64::EPSILON * at(0.0);
            budget::central(&format!("{name} {id}"), inner(&gradient, &direction), noise, at);
        }
    }
}

/// However texts are cut into passes, and whether what lies below was kept: the same bits.
#[test]
fn a_gradient_does_not_depend_on_passes() {
    let model = Golden::open("llama-tied").model(Precision::F32);
    let lengths = [9, 50, 30, 2, 100, 60, 70, 60, 3, 7];
    let others = [(usize::MAX, false), (1, true), (1, false), (2 * PIECE, true)];
    hold_passes(&model, &lengths, &others);
}

#[test]
fn kernels_gradients_do_not_depend_on_passes() {
    let test = "model::gradients::kernels_gradients_do_not_depend_on_passes";
    let Some(engine) = twin::fastest(test) else { return };
    let model = Golden::open("llama-tied").model(engine);
    hold_passes(&model, &[70, 60, 60], &[(1, true)]);
}

/// Holds the gradients of a batch, in passes of at most so many tokens and with what lies below
/// kept or not, to those in one pass.
fn hold_passes(model: &Model, lengths: &[usize], others: &[(usize, bool)]) {
    let mut draw = Draw::new("passes", true);
    let texts = texts(model, &mut draw, lengths);
    let ids = [MatrixId::new(1, V), MatrixId::new(1, Down), MatrixId::new(2, Gate)];
    let batch: Vec<usize> = (0..lengths.len()).collect();
    assert!(passes(lengths, 1).len() > 1, "there is something to cut");
    let run = |most: usize, keeps: bool| {
        let mut trainer = Trainer::new(model, &ids, &texts, RULE, most);
        if keeps {
            trainer.keep_below(&incise::base::Quiet).unwrap();
        }
        let mut bits: Vec<u64> = Vec::new();
        for _ in 0..2 {
            let losses = trainer.gradient(&batch).unwrap();
            bits.extend(losses.into_iter().map(f64::to_bits));
            bits.extend(trainer.gradients().iter().flat_map(|t| t.to_f64()).map(f64::to_bits));
            trainer.step().unwrap();
        }
        bits
    };
    let all = run(usize::MAX, true);
    for &(most, keeps) in others {
        assert!(run(most, keeps) == all, "at most {most} tokens, kept: {keeps}");
    }
}
