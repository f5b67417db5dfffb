//! T-Patcher: a neuron for each token that the model does not say, which is silent elsewhere.
//!
//! ```text
//! for each fact the model, with the neurons so far, does not say; its wrong tokens, the first
//! max_add_neuron_num of them:
//!   u_j (D)   what the last MLP reads where wrong token j is predicted
//!   start     up_j = u_j/‖u_j‖² (gate_j the same, where there is one), b_j = 0: s_j = 1 there;
//!             down_j = amplify_con·v_j, v_j ~ N(0, 1)
//!   loss      −(1/T) Σ_t ln p(y_t | prompt, y_<t) + alc·L_act + mlc·L_mem
//!   L_act     mean of the 5 largest exp(−s_e)                        s_e at a neuron's own token
//!   L_mem     mean of the 1000 largest exp(s_m − s_e + 3) + of the 1000 largest exp(s_m + 3)
//!                                                                        s_m at states in memory
//!   Adam with decay on a gradient of norm 5 at most; from epoch 100, every 25: the rate is halved
//!   where L_mem of held-out states was not lower twice, and it ends where the target is said and
//!   L_mem was not lower
//! memory      half of the states of `memory_text`, and u of the facts before; the other half is
//!             held out
//! ```
//!
//! s is what the activation reads. There is no public code for models that generate alone; what is
//! chosen here:
//!
//! * A fact stands in training once; the public code repeats it eight times, for dropout, and
//!   smooths labels.
//! * In gated MLPs the row of the gate is trained beside that of up, and L_act and L_mem are of the
//!   gate's. Layouts without biases get none, so that the neurons can be exported
//!   (`edit/export/widened.rs`).
//! * Of a fact before, the states that predict its target join the memory.
//!
//! Source: Huang et al. 2023, arXiv:2301.09785.

use std::path::Path;
use std::sync::Arc;

use faer::Mat;

use crate::base::file::read_text;
use crate::base::{Error, Progress, Result, Rng, Stage};
use crate::edit::cost::Cost;
use crate::edit::fact_report::FactPlan;
use crate::edit::facts::TokenizedFact;
use crate::edit::method::{About, Batching, Context, Method, Plan};
use crate::edit::params::{Absent, Param, ParamKind, Params, Range};
use crate::edit::search::LossStep;
use crate::edit::training::neurons::{
    Held, LabelRows, NeuronWeights, check, hold, last_mlp, loss, of_inputs, plus, read_states,
    says_all, times,
};
use crate::memory::{EditMemory, Memory, NeuronKind};
use crate::model::arch::Arch;
use crate::model::score::score;
use crate::model::{LanguageModel, Model};
use crate::ops::adam::{self, AdamMoments, AdamRule};
use crate::tensor::{Precision, Tensor};

/// The method, as it is listed.
pub static T_PATCHER: TPatcher = TPatcher;

/// See [`T_PATCHER`].
pub struct TPatcher;

static ABOUT: About = About {
    name: "t-patcher",
    summary: "Adds a neuron for each wrong token to the last MLP; no weight changes.",
    paper: "Huang et al. 2023, arXiv:2301.09785",
    changes: "nothing: neurons beside the last MLP, which export as a wider one",
    needs: "a text whose states the neurons leave alone, if it is to be local",
    presets: "t-patcher",
};

const fn number(name: &'static str, absent: &'static str, about: &'static str) -> Param {
    let kind = ParamKind::Number(Range::FromZero);
    Param { name, kind, absent: Absent::Default(absent), about }
}
const fn count(name: &'static str, absent: &'static str, about: &'static str) -> Param {
    Param { name, kind: ParamKind::Count, absent: Absent::Default(absent), about }
}

const EDIT_LR: Param = number("edit_lr", "0.01", "Adam's rate.");
const WEIGHT_DECAY: Param =
    number("weight_decay", "0.01", "What is added to the gradient, as a multiple of the neurons.");
const MAX_EPOCHS: Param = count("max_epochs", "2000", "Steps of a fact, at most.");
const CHECK_FROM: Param = count("check_from", "100", "The first step after which it may end.");
const CHECK_EVERY: Param = count("check_every", "25", "Steps from one such look to the next.");
const EARLY_PATIENCE: Param =
    count("early_patience", "1", "Looks without a lower memory loss, after which it ends.");
const MAX_NEURONS: Param =
    count("max_add_neuron_num", "5", "Neurons of a fact, at most: later wrong tokens get none.");
const AMPLIFY_CON: Param =
    number("amplify_con", "10", "The factor of what a neuron gives, which is not trained.");
const ALC: Param = number("alc", "1", "Weight of the loss of neurons that are not active enough.");
const MLC: Param = number("mlc", "10", "Weight of the loss of neurons that are active elsewhere.");
const MEMORY_TEXT: Param = Param {
    name: "memory_text",
    kind: ParamKind::File,
    absent: Absent::Unused("the states of the facts before it alone"),
    about: "A text, a document a line, at whose tokens neurons are to be silent.",
};
const MEMORY_STATES: Param =
    count("memory_states", "40000", "Tokens of that text that are used, at most.");

static PARAMS: [&Param; 12] = [
    &EDIT_LR,
    &WEIGHT_DECAY,
    &MAX_EPOCHS,
    &CHECK_FROM,
    &CHECK_EVERY,
    &EARLY_PATIENCE,
    &MAX_NEURONS,
    &AMPLIFY_CON,
    &ALC,
    &MLC,
    &MEMORY_TEXT,
    &MEMORY_STATES,
];

/// Of how many the largest terms are taken.
const MOST_ACTIVE: usize = 5;
const MOST_IN_MEMORY: usize = 1000;
/// m₁ and −m₂.
const MARGIN: f64 = 3.0;
/// The gradient's norm, at most.
const CLIP: f64 = 5.0;
/// Added to the norm where it divides, as the framework does.
const CLIP_EPS: f64 = 1e-6;
/// Looks without a lower memory loss, after which the rate is halved.
const PLATEAU: usize = 1;
/// Far above any text for this.
const MAX_BYTES: u64 = 1 << 30;
/// Tokens of a document that run together, at most.
const DOCUMENT: usize = 512;

/// How the neurons of a fact are trained.
#[derive(Clone, Copy, Debug)]
pub struct PatchTraining {
    /// Adam's rate.
    pub lr: f64,
    /// Of Adam.
    pub weight_decay: f64,
    /// Steps, at most.
    pub epochs: usize,
    /// The first step after which it may end, and steps between looks.
    pub looks: [usize; 2],
    /// Looks without a lower memory loss, after which it ends.
    pub patience: usize,
    /// a.
    pub amplify: f64,
    /// Of L_act and L_mem.
    pub weights: [f64; 2],
}

/// States at which neurons are to be silent: those trained on, and those held out.
pub struct StateMemory {
    /// (M, D).
    pub trained: Mat<f64>,
    /// (M′, D).
    pub held_out: Mat<f64>,
}

impl Method for TPatcher {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn check_model(&self, _: &Params, arch: &Arch) -> Result<()> {
        check(arch, ABOUT.name)
    }

    fn params(&self) -> &'static [&'static Param] {
        &PARAMS
    }

    fn batching(&self) -> Batching {
        Batching::OneByOne
    }

    fn makes_memory(&self) -> bool {
        true
    }

    fn cost(&self, on: &Context, facts: &[TokenizedFact], by: &Params) -> Cost {
        let a = &on.model.arch;
        let states = if by.text(&MEMORY_TEXT).is_some() { by.count(&MEMORY_STATES) } else { 0 };
        let rows: usize = facts.iter().map(|fact| fact.rows.target.len()).sum();
        let most = facts.iter().map(|fact| fact.rows.target.len()).max().unwrap_or(0);
        let neurons = most.min(by.count(&MAX_NEURONS)) * facts.len();
        // The head there and back, and what neurons read at states in memory.
        let step = 4.0 * (rows * a.vocabulary * a.width + neurons * states * a.width) as f64;
        Cost {
            bytes_a_fact: (most * 4 * (a.vocabulary + 8 * a.width)) as u64,
            fixed_bytes: (3 * states * a.width * size_of::<f64>()) as u64,
            at_a_time: 1,
            solve_bytes: 0,
            system: None,
            training: None,
            flop: step * by.count(&MAX_EPOCHS) as f64,
        }
    }

    fn why_missed(&self, plan: &FactPlan, _: &Params) -> Option<String> {
        let nll = |step: Option<&LossStep>| step.map_or(0.0, |step| step.nll);
        let [first, last] = [plan.trace.first(), plan.trace.last()].map(nll);
        Some(match plan.trace.len() {
            0 => "it was said before its neighbours' neurons, which are active there too; name a \
                  memory_text or a larger mlc"
                .to_owned(),
            n => format!(
                "{n} steps took its loss from {first:.2} to {last:.2} for each of its tokens; try \
                 more max_epochs, more max_add_neuron_num or a smaller mlc"
            ),
        })
    }

    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan> {
        let (model, progress) = (on.model, on.progress);
        let mut memory = memory(on, by)?;
        let training = training(by);
        let base: Arc<dyn LanguageModel> = Arc::new(model.clone());
        let (act, layer) = (last_mlp(model).act, model.arch.layers - 1);
        let mut all = empty(model);
        let mut done = Vec::new();
        for (i, fact) in facts.iter().enumerate() {
            progress.at(Stage::Fact, i as u64, facts.len() as u64);
            let text = fact.rows.completion(0);
            let now = all.added(layer, act, NeuronKind::Patches, training.amplify);
            let with = Arc::new(now).on(base.clone())?;
            let said = score(&*with, std::slice::from_ref(&text))?;
            let wrong = said[0].tokens.iter().enumerate().filter(|(_, token)| !token.is_hit());
            let wrong: Vec<usize> = wrong.map(|(t, _)| t).take(by.count(&MAX_NEURONS)).collect();
            let mut rows = LabelRows::read(model, &[text])?;
            rows.add(&all, act, training.amplify);
            let mut losses = Vec::new();
            if !wrong.is_empty() {
                let rng = &mut Rng::new(on.seed, &format!("neurons of {}", fact.request.id));
                let mut own = start(model, &rows, &wrong, rng);
                losses = training.run(model, &rows, &wrong, &mut own, &memory, progress)?;
                if losses.iter().any(|loss| !loss.is_finite()) {
                    let what = format!("fact `{}`: the loss is not finite", fact.request.id);
                    return Err(Error::numeric(what, "lower edit_lr"));
                }
                all = joined(&all, &own);
            }
            memory.trained = stacked(&memory.trained, &rows.u);
            let step = |nll| LossStep { nll, ..LossStep::default() };
            let plan = FactPlan::trained(losses.into_iter().map(step).collect());
            done.push(FactPlan { neurons: Some(wrong.len()), ..plan });
        }
        progress.at(Stage::Fact, facts.len() as u64, facts.len() as u64);
        let neurons = all.added(layer, act, NeuronKind::Patches, training.amplify);
        let memory = Some(EditMemory::Neurons(Arc::new(neurons)));
        let state = std::mem::take(&mut on.state);
        Ok(Plan { model: model.clone(), facts: done, changes: Vec::new(), memory, state })
    }
}

fn training(by: &Params) -> PatchTraining {
    PatchTraining {
        lr: by.number(&EDIT_LR),
        weight_decay: by.number(&WEIGHT_DECAY),
        epochs: by.count(&MAX_EPOCHS),
        looks: [by.count(&CHECK_FROM), by.count(&CHECK_EVERY)],
        patience: by.count(&EARLY_PATIENCE),
        amplify: by.number(&AMPLIFY_CON),
        weights: [by.number(&ALC), by.number(&MLC)],
    }
}

/// The states of a text: of every two tokens one is trained on, and one held out.
fn memory(on: &Context, by: &Params) -> Result<StateMemory> {
    let none = Mat::zeros(0, on.model.arch.width);
    let (Some(file), Some(text)) = (by.text(&MEMORY_TEXT), on.tokenizer) else {
        on.progress.warn(
            "t-patcher has no memory_text: nothing but the facts before keeps its neurons silent",
        );
        return Ok(StateMemory { trained: none.clone(), held_out: none });
    };
    let (mut left, mut documents) = (by.count(&MEMORY_STATES), Vec::new());
    let most = DOCUMENT.min(on.model.arch.max_positions);
    for line in read_text(Path::new(file), MAX_BYTES)?.lines() {
        let mut ids = text.encode(line)?;
        ids.truncate(most.min(left));
        left -= ids.len();
        documents.extend((!ids.is_empty()).then_some(ids));
        if left == 0 {
            break;
        }
    }
    let documents: Vec<&[u32]> = documents.iter().map(Vec::as_slice).collect();
    let states = read_states(on.model, &documents)?;
    let every_other = |from: usize| {
        let rows = (states.nrows() + 1 - from) / 2;
        Mat::from_fn(rows, states.ncols(), |i, j| states[(2 * i + from, j)])
    };
    Ok(StateMemory { trained: every_other(0), held_out: every_other(1) })
}

/// No neurons, in the layout of a model's last MLP.
pub fn empty(model: &Model) -> NeuronWeights {
    let (mlp, d) = (last_mlp(model), model.arch.width);
    let gated = mlp.gate.is_some();
    NeuronWeights {
        gate: gated.then(|| Mat::zeros(0, d)),
        up: Mat::zeros(0, d),
        bias: (!gated && mlp.up.b.is_some()).then(|| Mat::zeros(1, 0)),
        down: Mat::zeros(d, 0),
    }
}

/// The neurons of some rows, before they are trained.
fn start(model: &Model, rows: &LabelRows, wrong: &[usize], rng: &mut Rng) -> NeuronWeights {
    let mut all = empty(model);
    let square = |t: usize| (0..rows.u.ncols()).map(|i| rows.u[(t, i)].powi(2)).sum::<f64>();
    let square: Vec<f64> = wrong.iter().map(|&t| square(t)).collect();
    let keys =
        Mat::from_fn(wrong.len(), model.arch.width, |j, i| rows.u[(wrong[j], i)] / square[j]);
    all.gate = all.gate.map(|_| keys.clone());
    all.up = keys;
    all.bias = all.bias.map(|_| Mat::zeros(1, wrong.len()));
    all.down = Mat::from_fn(model.arch.width, wrong.len(), |_, _| rng.normal());
    all
}

/// One matrix above another.
fn stacked(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    let above = a.nrows();
    Mat::from_fn(above + b.nrows(), b.ncols(), |i, j| {
        if i < above { a[(i, j)] } else { b[(i - above, j)] }
    })
}

/// All neurons of two.
fn joined(a: &NeuronWeights, b: &NeuronWeights) -> NeuronWeights {
    let beside = |a: &Mat<f64>, b: &Mat<f64>| {
        let left = a.ncols();
        Mat::from_fn(b.nrows(), left + b.ncols(), |i, j| {
            if j < left { a[(i, j)] } else { b[(i, j - left)] }
        })
    };
    NeuronWeights {
        gate: a.gate.as_ref().zip(b.gate.as_ref()).map(|(a, b)| stacked(a, b)),
        up: stacked(&a.up, &b.up),
        bias: a.bias.as_ref().zip(b.bias.as_ref()).map(|(a, b)| beside(a, b)),
        down: beside(&a.down, &b.down),
    }
}

/// The mean of the largest of some numbers, and the weight of each in it.
fn mean_of_largest(values: &[f64], most: usize) -> (f64, Vec<f64>) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(most);
    let mut weights = vec![0.0; values.len()];
    let share = 1.0 / order.len().max(1) as f64;
    order.iter().for_each(|&i| weights[i] = share);
    (order.iter().map(|&i| share * values[i]).sum(), weights)
}

/// L_mem, and its gradient for what neurons read at states (M, n) and at their own tokens (n).
fn memory_loss(s: &Mat<f64>, own: &[f64]) -> (f64, Mat<f64>, Vec<f64>) {
    let [m, n] = [s.nrows(), s.ncols()];
    let all = |of: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
        (0..n).flat_map(|j| (0..m).map(move |i| (i, j))).map(|(i, j)| of(i, j)).collect()
    };
    let near = all(&|i, j| (s[(i, j)] - own[j] + MARGIN).exp());
    let active = all(&|i, j| (s[(i, j)] + MARGIN).exp());
    let (first, w) = mean_of_largest(&near, MOST_IN_MEMORY);
    let (second, v) = mean_of_largest(&active, MOST_IN_MEMORY);
    let of = |i: usize, j: usize| w[j * m + i] * near[j * m + i];
    let ds = Mat::from_fn(m, n, |i, j| of(i, j) + v[j * m + i] * active[j * m + i]);
    let down = (0..n).map(|j| -(0..m).map(|i| of(i, j)).sum::<f64>()).collect();
    (first + second, ds, down)
}

impl PatchTraining {
    /// Trains the neurons of the rows `wrong`; returns the loss of the target before each step.
    ///
    /// # Errors
    ///
    /// Cancellation; a device that fails.
    pub fn run(
        &self,
        model: &Model,
        rows: &LabelRows,
        wrong: &[usize],
        neurons: &mut NeuronWeights,
        memory: &StateMemory,
        progress: &dyn Progress,
    ) -> Result<Vec<f64>> {
        let act = last_mlp(model).act;
        let mut moments: Vec<AdamMoments> =
            neurons.each().map(|m| AdamMoments::new(&column(m))).collect();
        let (mut lr, mut losses) = (self.lr, Vec::new());
        let (mut lowest, mut not_lower, mut waits) = (f64::INFINITY, 0, 0);
        for epoch in 1..=self.epochs {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
            }
            progress.at(Stage::Step, epoch as u64 - 1, self.epochs as u64);
            let (nll, mut gradient) = self.gradient(model, rows, wrong, neurons, memory)?;
            losses.push(nll);
            let shrink = (CLIP / (gradient.norm() + CLIP_EPS)).min(1.0);
            gradient.each_mut().for_each(|m| *m = times(shrink, m));
            let rule = AdamRule { weight_decay: self.weight_decay, ..AdamRule::plain(lr) };
            for ((m, g), moments) in neurons.each_mut().zip(gradient.each()).zip(&mut moments) {
                let mut x = column(m);
                adam::step(&rule, &column(g), moments, &mut x);
                let (rows, values) = (m.nrows(), x.get::<f64>());
                *m = Mat::from_fn(rows, m.ncols(), |i, j| values[j * rows + i]);
            }
            let [from, every] = self.looks;
            if epoch < from || (epoch - from) % every != 0 {
                continue;
            }
            let held = hold(neurons, &rows.u, act);
            let own: Vec<f64> = wrong.iter().enumerate().map(|(j, &t)| held.s[(t, j)]).collect();
            let (now, ..) = memory_loss(&hold(neurons, &memory.held_out, act).s, &own);
            if now < lowest {
                (lowest, not_lower, waits) = (now, 0, 0);
            } else {
                (not_lower, waits) = (not_lower + 1, waits + 1);
            }
            if not_lower >= self.patience && says_all(model, rows, neurons, (act, self.amplify))? {
                break;
            }
            if waits > PLATEAU {
                (lr, waits) = (lr / 2.0, 0);
            }
        }
        Ok(losses)
    }

    /// The loss of the target, and the gradient of all losses.
    pub fn gradient(
        &self,
        model: &Model,
        rows: &LabelRows,
        wrong: &[usize],
        neurons: &NeuronWeights,
        memory: &StateMemory,
    ) -> Result<(f64, NeuronWeights)> {
        let act = last_mlp(model).act;
        let [alc, mlc] = self.weights;
        let states = hold(neurons, &memory.trained, act);
        let own = hold(neurons, &rows.u, act);
        let own: Vec<f64> = wrong.iter().enumerate().map(|(j, &t)| own.s[(t, j)]).collect();
        let (_, in_memory, mut ds) = memory_loss(&states.s, &own);
        let inactive: Vec<f64> = own.iter().map(|s| (-s).exp()).collect();
        let (_, weights) = mean_of_largest(&inactive, MOST_ACTIVE);
        for ((ds, w), l) in ds.iter_mut().zip(weights).zip(&inactive) {
            *ds = mlc * *ds - alc * w * l;
        }
        let at_own = |held: &Held| {
            let mut all: Mat<f64> = Mat::zeros(held.s.nrows(), held.s.ncols());
            wrong.iter().enumerate().for_each(|(j, &t)| all[(t, j)] = ds[j]);
            Some(all)
        };
        let (nll, mut all) = loss(model, rows, neurons, (act, self.amplify), &at_own)?;
        let none = Mat::zeros(states.k.nrows(), states.k.ncols());
        let in_memory = times(mlc, &in_memory);
        let elsewhere =
            of_inputs(neurons, (&memory.trained, &states), &none, Some(&in_memory), act);
        all.each_mut().zip(elsewhere.each()).for_each(|(sum, more)| *sum = plus(sum, 1.0, more));
        Ok((nll, all))
    }
}

/// All numbers of a matrix, column by column.
fn column(m: &Mat<f64>) -> Tensor {
    let values: Vec<f64> = m.col_iter().flat_map(|c| c.iter().copied()).collect();
    Tensor::of(Precision::F64, &[1, values.len()], &values)
}
