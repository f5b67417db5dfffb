//! KE (KnowledgeEditor), as MEND's authors compare with it: a text about the edit decides how its
//! gradient is scaled and shifted.
//!
//! ```text
//! text     what the model says now, a separator, the target, a separator, the prompt
//! c (C)    = tanh(W_c [h→; h←] + b_c)           what two recurrent layers say at the text's ends
//! for each edited W (out, in), ∇ the gradient for it of −(1/T) Σ_t ln p(y_t | prompt, y_<t):
//!   q_a (in), r_a (out), q_b (in), r_b (out), s  = normed dense(tanh(normed dense(c)))
//!   A = softmax(r_a) q_aᵀ      B = softmax(r_b) q_bᵀ
//!   ΔW = σ(s)·(A ∘ ∇ + B)                                                       W ← W + ΔW
//! back, from G (out, in) at W + ΔW, with p = softmax(r):
//!   dA = σ(s) G ∘ ∇    dB = σ(s) G    ds = σ(s)(1 − σ(s)) ⟨G, A ∘ ∇ + B⟩
//!   dq = dAᵀp          dp = dA q      dr = p ∘ (dp − ⟨p, dp⟩)
//! ```
//!
//! The token embeddings of the text begin as the model's and are trained too. As it is, this is the
//! system that MEND's repository calls `efk`, which the survey and EasyEdit name KE: MEND's
//! objective, its matrices alone, one text a change. With `kl_bound` it is De Cao's own, trained as
//! `edit/kl_bound.rs` says; the preset `de-cao` has its sizes, and `reapply` is its loop that makes
//! a change again until the model says the target. Where the public code differs:
//!
//! * The separators ` >> ` and ` || ` are two vectors of their own, trained with the rest.
//! * The softmax is over W's rows; there, over the first axis of what the checkpoint stores, which
//!   in GPT-2 is W's columns.
//! * De Cao's compares what five beams say, and has KL over what the model says to other prompts;
//!   here greedy tokens, and all of a locality text's.
//!
//! Sources: De Cao, Aziz, Titov 2021, arXiv:2104.08164; Mitchell et al. 2022, arXiv:2110.11309.

use serde_json::Value;

use crate::base::{Result, Rng};
use crate::edit::cost::Cost;
use crate::edit::facts::TokenizedFact;
use crate::edit::kl_bound;
use crate::edit::method::{About, Batching, Context, Method, Plan, TrainContext};
use crate::edit::params::{Absent, Param, ParamKind, Params, Range};
use crate::edit::train_params;
use crate::edit::weight_editor::{self, WeightEditor};
use crate::model::arch::Arch;
use crate::model::completion::Completion;
use crate::model::generate::{Sampling, generate};
use crate::model::gradients::MatrixGradients;
use crate::model::{MatrixId, Model};
use crate::ops::rows::Index;
use crate::ops::weight_gradient;
use crate::tensor::{Tensor, Weight};
use crate::train::layers::{Dense, NormedDense, map, zip};
use crate::train::lstm::{Lstm, LstmRead};
use crate::train::pass::{LossPass, TextLoss};
use crate::train::{Parameters, TrainedEditor};

/// The method, as it is listed.
pub static KE: Ke = Ke;

/// See [`KE`].
pub struct Ke;

static ABOUT: About = About {
    name: "ke",
    summary: "A trained editor scales and shifts the gradient of each fact by a text about it.",
    paper: "De Cao et al. 2021, arXiv:2104.08164",
    changes: "any matrices of any layers, by default the MLP's",
    needs: "an editor that was trained for the model",
    presets: "ke",
};

const HIDDEN_DIM: Param = Param {
    name: "hidden_dim",
    kind: ParamKind::Count,
    absent: Absent::Default("512"),
    about: "Width of each recurrent layer, and of the layer between the text and a change.",
};
const CONDITION_DIM: Param = Param {
    name: "condition_dim",
    kind: ParamKind::Count,
    absent: Absent::Default("768"),
    about: "Width of what is known of the text.",
};
const LR: Param = Param {
    name: "lr",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("1e-5"),
    about: "The optimiser's rate.",
};

const REAPPLY: Param = Param {
    name: "reapply",
    kind: ParamKind::Count,
    absent: Absent::Default("1"),
    about: "How often a fact's change is made, at most, until the model says its target.",
};

static PARAMS: [&Param; 20] = [
    &weight_editor::LAYERS,
    &weight_editor::MATRICES,
    &HIDDEN_DIM,
    &CONDITION_DIM,
    &LR,
    &weight_editor::CEDIT,
    &weight_editor::CLOC,
    &train_params::MAX_ITERS,
    &train_params::ACCUMULATE_BS,
    &train_params::GRAD_CLIP,
    &train_params::VAL_INTERVAL,
    &train_params::VAL_STEPS,
    &train_params::EARLY_STOP_PATIENCE,
    &REAPPLY,
    &kl_bound::KL_BOUND,
    &kl_bound::EPS,
    &kl_bound::LR_ALPHA,
    &kl_bound::MARGIN_KL_MAX,
    &kl_bound::MARGIN_KL_MIN,
    &kl_bound::WARMUP_UPDATES,
];

impl Method for Ke {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn params(&self) -> &'static [&'static Param] {
        &PARAMS
    }

    fn batching(&self) -> Batching {
        Batching::OneByOne
    }

    fn is_trained(&self) -> bool {
        true
    }

    fn check_model(&self, by: &Params, _: &Arch) -> Result<()> {
        kl_bound::check(by)
    }

    fn cost(&self, on: &Context, facts: &[TokenizedFact], by: &Params) -> Cost {
        weight_editor::cost(on, facts, &by.edited())
    }

    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan> {
        let mut parameters = Parameters::new(on.model.compute.precision());
        let editor = KeEditor::new(on.model, &by.edited(), shape(by, 0), &mut parameters);
        weight_editor::plan(on, facts, (editor, by.count(&REAPPLY)), parameters)
    }

    fn train(&self, on: TrainContext, by: &Params) -> Result<(TrainedEditor, Value)> {
        let mut parameters = Parameters::new(on.model.compute.precision());
        let editor = KeEditor::new(on.model, &by.edited(), shape(by, on.seed), &mut parameters);
        weight_editor::train(on, by, editor, parameters)
    }
}

fn shape(by: &Params, seed: u64) -> KeShape {
    KeShape {
        hidden: by.count(&HIDDEN_DIM),
        condition: by.count(&CONDITION_DIM),
        lr: by.number(&LR),
        seed,
    }
}

/// The sizes and the rate of an editor.
#[derive(Clone, Copy, Debug)]
pub struct KeShape {
    /// Width of each recurrent layer, and inside a head.
    pub hidden: usize,
    /// C.
    pub condition: usize,
    /// The optimiser's rate.
    pub lr: f64,
    /// Of what is random at the start.
    pub seed: u64,
}

/// The networks of an editor, and what runs a model for them.
pub struct KeEditor {
    ids: Vec<MatrixId>,
    embed: usize,      // (V, D)
    separators: usize, // (2, D)
    read: [Lstm; 2],   // forwards, backwards
    condition: Dense,
    heads: Vec<[NormedDense; 2]>,
    pass: LossPass,
    gradients: MatrixGradients,
}

/// What became of an edit.
pub struct KeMade {
    text: Vec<Piece>,
    read: [LstmRead; 2],
    ends: Tensor,            // (1, 2H)
    c: Tensor,               // (1, C)
    heads: Vec<[Tensor; 2]>, // tanh of the first layer; what the second says
    gradients: Vec<Tensor>,  // ∇ (out, in), on the host
}

/// A piece of the text about an edit.
#[derive(Clone, Copy)]
enum Piece {
    Token(u32),
    Separator(usize),
}

impl KeEditor {
    /// An editor of some matrices, ascending, as it is before training; its tensors join the
    /// parameters.
    pub fn new(
        model: &Model,
        ids: &[MatrixId],
        by: KeShape,
        parameters: &mut Parameters,
    ) -> KeEditor {
        let (mut rng, rate) = (Rng::new(by.seed, "ke"), by.lr);
        let [v, d] = model.embed.dims();
        let embed = model.embed.to_dense::<f64>();
        let embed = parameters.add("condition.embedding.weight", &[v, d], &embed, Some(rate));
        let between: Vec<f64> = (0..2 * d).map(|_| rng.normal()).collect();
        let separators = parameters.add("condition.separators", &[2, d], &between, Some(rate));
        let read = ["", "_reverse"].map(|suffix| {
            let name = ("condition.lstm", suffix);
            Lstm::new(parameters, name, [d, by.hidden], (rate, &mut rng))
        });
        let sizes = [2 * by.hidden, by.condition];
        let condition = Dense::new(parameters, "condition.linear", sizes, (rate, &mut rng));
        let mut head = |id: &MatrixId| {
            let [out, inner] = model.matrix(*id).w.dims();
            let widths = [by.condition, by.hidden, 2 * (inner + out) + 1];
            [0, 1].map(|k| {
                let name = format!("{id}.{}", 2 * k);
                let sizes = [widths[k], widths[k + 1]];
                NormedDense::new(parameters, &name, sizes, (rate, &mut rng))
            })
        };
        let heads = ids.iter().map(&mut head).collect();
        let pass = LossPass::new(model, MatrixGradients::begin_of(model, ids));
        let gradients = MatrixGradients::new(model, ids);
        KeEditor { ids: ids.to_vec(), embed, separators, read, condition, heads, pass, gradients }
    }

    /// The text about an edit: what the model says now, the target, the prompt.
    fn text(model: &Model, edit: &Completion) -> Result<Vec<Piece>> {
        let prompt = &edit.read[..edit.prompt()];
        let (most, mut unused) = (edit.labels.len(), Rng::new(0, "greedy"));
        let now = generate(model, prompt, most, Sampling::GREEDY, &mut unused, &[], &mut |_| true)?;
        let tokens = |ids: &[u32]| ids.iter().map(|&id| Piece::Token(id)).collect::<Vec<_>>();
        let [first, second] = [0, 1].map(|which| vec![Piece::Separator(which)]);
        Ok([tokens(&now), first, tokens(&edit.labels), second, tokens(prompt)].concat())
    }

    /// Where a piece's vector is: its parameter, and the row of it.
    fn place(&self, piece: Piece) -> (usize, usize) {
        match piece {
            Piece::Token(id) => (self.embed, id as usize),
            Piece::Separator(which) => (self.separators, which),
        }
    }

    /// softmax(r_a), q_a, softmax(r_b), q_b and σ(s) of matrix i.
    fn parts(&self, made: &KeMade, i: usize) -> Parts {
        let [out, inner] = made.gradients[i].dims();
        let said = made.heads[i][1].to_f64();
        let part = |from: usize, len: usize| said[from..from + len].to_vec();
        Parts {
            q: [part(0, inner), part(inner + out, inner)],
            p: [softmax(&part(inner, out)), softmax(&part(2 * inner + out, out))],
            scale: 1.0 / (1.0 + (-said[2 * (inner + out)]).exp()),
        }
    }
}

/// What a head says of a matrix.
struct Parts {
    q: [Vec<f64>; 2],
    p: [Vec<f64>; 2],
    scale: f64,
}

fn softmax(r: &[f64]) -> Vec<f64> {
    let top = r.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = r.iter().map(|r| (r - top).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|e| e / sum).collect()
}

impl WeightEditor for KeEditor {
    type Made = KeMade;

    fn ids(&self) -> &[MatrixId] {
        &self.ids
    }

    fn pass(&mut self) -> &mut LossPass {
        &mut self.pass
    }

    fn make(
        &mut self,
        model: &Model,
        parameters: &mut Parameters,
        edit: &Completion,
        _: bool,
    ) -> Result<(KeMade, f64)> {
        let cuts = Index::new(&model.compute, weight_gradient::cuts([edit.read.len()]));
        self.gradients.clear();
        self.gradients.set_cuts(cuts);
        let texts = [(TextLoss::Target(edit), 1.0)];
        let loss = self.pass.run(model, &texts, &mut self.gradients)?[0];
        let gradients = self.gradients.all().iter().map(|g| g.to_host().into_owned()).collect();
        let text = KeEditor::text(model, edit)?;
        let [_, d] = parameters.value(self.embed).dims();
        let row = |&piece: &Piece| {
            let (at, row) = self.place(piece);
            parameters.value(at).row_f64(row)
        };
        let mut rows: Vec<Vec<f64>> = text.iter().map(row).collect();
        let [forwards, backwards] = [0, 1].map(|which| {
            let x = Tensor::of(parameters.precision(), &[text.len(), d], &rows.concat());
            rows.reverse();
            self.read[which].forward(parameters, x)
        });
        let ends = [forwards.1.to_f64(), backwards.1.to_f64()].concat();
        let ends = Tensor::of(parameters.precision(), &[1, ends.len()], &ends);
        let c = map(&self.condition.forward(parameters, &ends), f64::tanh);
        let head = |[first, second]: &[NormedDense; 2]| {
            let inside = map(&first.forward(parameters, &c), f64::tanh);
            let said = second.forward(parameters, &inside);
            [inside, said]
        };
        let heads = self.heads.iter().map(head).collect();
        let read = [forwards.0, backwards.0];
        Ok((KeMade { text, read, ends, c, heads, gradients }, loss))
    }

    fn change(&self, _: &Parameters, made: &KeMade, i: usize) -> Tensor {
        let Parts { q: [qa, qb], p: [pa, pb], scale } = self.parts(made, i);
        let gradient = &made.gradients[i];
        let [out, inner] = gradient.dims();
        let mut change = gradient.to_f64();
        for (o, row) in change.chunks_mut(inner).enumerate().take(out) {
            for (j, x) in row.iter_mut().enumerate() {
                *x = scale * (pa[o] * qa[j] * *x + pb[o] * qb[j]);
            }
        }
        Tensor::of(gradient.precision(), &[out, inner], &change)
    }

    fn backward(&self, parameters: &mut Parameters, made: &KeMade, g: &[Weight]) {
        let mut dc = made.c.like(made.c.shape());
        for (i, [first, second]) in self.heads.iter().enumerate() {
            let [inside, said] = &made.heads[i];
            let dsaid = self.parts(made, i).backward(&made.gradients[i], g[i].own_tensor());
            let dsaid = Tensor::of(parameters.precision(), said.shape(), &dsaid);
            let dinside = second.backward(parameters, inside, &dsaid);
            let dinside = zip(&dinside, inside, |d, y| d * (1.0 - y * y));
            dc = zip(&dc, &first.backward(parameters, &made.c, &dinside), |a, b| a + b);
        }
        let dc = zip(&dc, &made.c, |d, y| d * (1.0 - y * y));
        let dends = self.condition.backward(parameters, &made.ends, &dc).to_f64();
        let n = made.text.len();
        for (which, dh) in dends.chunks(dends.len() / 2).enumerate() {
            let dh = Tensor::of(parameters.precision(), &[1, dh.len()], dh);
            let dx = self.read[which].backward(parameters, &made.read[which], &dh);
            for (t, &piece) in made.text.iter().enumerate() {
                let dx = dx.row_f64(if which == 0 { t } else { n - 1 - t });
                let (at, row) = self.place(piece);
                weight_editor::add_row(parameters.gradient_mut(at), row, &dx);
            }
        }
    }
}

impl Parts {
    /// The gradient for what the head says, from ∇ and G.
    fn backward(&self, gradient: &Tensor, g: &Tensor) -> Vec<f64> {
        let Parts { q: [qa, qb], p: [pa, pb], scale } = self;
        let [out, inner] = gradient.dims();
        let (nabla, g) = (gradient.to_f64(), g.to_f64());
        let [mut dqa, mut dqb] = [(); 2].map(|()| vec![0.0; inner]);
        let [mut dpa, mut dpb] = [(); 2].map(|()| vec![0.0; out]);
        let mut along = 0.0;
        for o in 0..out {
            for j in 0..inner {
                let (g, nabla) = (g[o * inner + j], nabla[o * inner + j]);
                let (da, db) = (scale * g * nabla, scale * g);
                along += g * (pa[o] * qa[j] * nabla + pb[o] * qb[j]);
                dqa[j] += da * pa[o];
                dqb[j] += db * pb[o];
                dpa[o] += da * qa[j];
                dpb[o] += db * qb[j];
            }
        }
        let dr = |p: &[f64], dp: &[f64]| -> Vec<f64> {
            let mean: f64 = p.iter().zip(dp).map(|(p, dp)| p * dp).sum();
            p.iter().zip(dp).map(|(p, dp)| p * (dp - mean)).collect()
        };
        let ds = scale * (1.0 - scale) * along;
        [dqa, dr(pa, &dpa), dqb, dr(pb, &dpb), vec![ds]].concat()
    }
}
