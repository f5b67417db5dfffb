//! CaliNET: neurons beside the last MLP that are trained on all facts together.
//!
//! ```text
//! neurons   n = `neurons`, without a bias; up, gate uniform in ±1/√D, down in ±1/√n
//! loss      −(1/R) Σ_r ln p(y_r | …) over all R tokens of all targets, behind each prompt
//! a step    g of the loss of all texts;  Adafactor, of each matrix:
//!           a_i ← β a_i + (1 − β) mean_j (g² + 10⁻³⁰)      c_j the same over i,  β = 1 − t^−0.8
//!           û = g / √(a_i c_j / mean_i a_i)                 x ← x − lr û / max(1, rms(û))
//! ```
//!
//! What lies below the last MLP is computed once, and only tokens of targets are trained on. The
//! first step begins with neurons that already say something, as in the public code. Where that
//! differs:
//!
//! * There it is beside the last layer of a T5 decoder, with ReLU; here it has the layer's own
//!   activation, so that it can be exported (`edit/export/widened.rs`).
//! * A fact's texts there are all patterns of its relation; here its prompt, and its paraphrases
//!   where `paraphrases` says so: they measure an edit otherwise.
//!
//! Sources: Dong et al. 2022, arXiv:2210.03329; Shazeer, Stern 2018, arXiv:1804.04235 (Adafactor).

use std::sync::Arc;

use faer::Mat;

use super::t_patcher::empty;
use crate::base::{Error, Result, Rng, Stage};
use crate::edit::cost::Cost;
use crate::edit::fact_report::FactPlan;
use crate::edit::facts::TokenizedFact;
use crate::edit::method::{About, Batching, Context, Method, Plan};
use crate::edit::params::{Absent, Param, ParamKind, Params, Range};
use crate::edit::search::LossStep;
use crate::edit::training::neurons::{
    LabelRows, NeuronWeights, check, last_mlp, loss, plus, times,
};
use crate::memory::{EditMemory, NeuronKind};
use crate::model::Model;
use crate::model::arch::Arch;
use crate::model::completion::Completion;

/// The method, as it is listed.
pub static CALINET: CaliNet = CaliNet;

/// See [`CALINET`].
pub struct CaliNet;

static ABOUT: About = About {
    name: "calinet",
    summary: "Trains neurons beside the last MLP on all facts together; no weight changes.",
    paper: "Dong et al. 2022, arXiv:2210.03329",
    changes: "nothing: neurons beside the last MLP, which export as a wider one",
    needs: "nothing",
    presets: "calinet",
};

const NEURONS: Param = Param {
    name: "neurons",
    kind: ParamKind::Count,
    absent: Absent::Default("64"),
    about: "How many neurons are added.",
};
const STEPS: Param = Param {
    name: "steps",
    kind: ParamKind::Count,
    absent: Absent::Default("5000"),
    about: "Steps, each on all texts.",
};
const LR: Param = Param {
    name: "lr",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("0.01"),
    about: "Adafactor's rate.",
};
const PARAPHRASES: Param = Param {
    name: "paraphrases",
    kind: ParamKind::Switch,
    absent: Absent::Default("false"),
    about: "Whether paraphrases of prompts are trained on too; they measure nothing then.",
};

static PARAMS: [&Param; 4] = [&NEURONS, &STEPS, &LR, &PARAPHRASES];

/// Added to squares of the gradient.
const SQUARE: f64 = 1e-30;
/// How fast squares are forgotten.
const DECAY: f64 = 0.8;

impl Method for CaliNet {
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
        Batching::Epochs
    }

    fn makes_memory(&self) -> bool {
        true
    }

    fn cost(&self, on: &Context, facts: &[TokenizedFact], by: &Params) -> Cost {
        let a = &on.model.arch;
        let texts = |fact: &TokenizedFact| match by.is_on(&PARAPHRASES) {
            true => 1 + fact.request.paraphrases.len(),
            false => 1,
        };
        let rows: usize = facts.iter().map(|fact| texts(fact) * fact.rows.target.len()).sum();
        let step = 4.0 * (rows * a.width * (a.vocabulary + 3 * by.count(&NEURONS))) as f64;
        let n = facts.len().max(1) as u64;
        Cost {
            bytes_a_fact: (rows * a.width * 6 * size_of::<f64>()) as u64 / n,
            fixed_bytes: (64 * 4 * a.vocabulary) as u64,
            at_a_time: n,
            solve_bytes: 0,
            system: None,
            training: None,
            flop: step * by.count(&STEPS) as f64,
        }
    }

    fn why_missed(&self, plan: &FactPlan, _: &Params) -> Option<String> {
        let nll = |step: Option<&LossStep>| step.map_or(0.0, |step| step.nll);
        let [first, last] = [plan.trace.first(), plan.trace.last()].map(nll);
        Some(format!(
            "{} steps took the loss of all facts from {first:.2} to {last:.2} for each of their \
             tokens; try more neurons, more steps or fewer facts",
            plan.trace.len()
        ))
    }

    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan> {
        let model = on.model;
        let (n, d, act) = (by.count(&NEURONS), model.arch.width, last_mlp(model).act);
        if on.sequential > 0 {
            let what = "calinet in batches: its neurons are trained on all facts together";
            return Err(Error::refused(what, "leave the batches out"));
        }
        let rows = LabelRows::read(model, &texts(on, facts, by)?)?;
        let mut rng = Rng::new(on.seed, "neurons");
        let mut uniform = |rows, columns, bound: f64| {
            Mat::from_fn(rows, columns, |_, _| bound * (2.0 * rng.uniform() - 1.0))
        };
        let [reads, gives] = [d, n].map(|fan_in| 1.0 / (fan_in as f64).sqrt());
        let mut neurons = NeuronWeights {
            gate: empty(model).gate.map(|_| uniform(n, d, reads)),
            up: uniform(n, d, reads),
            bias: None,
            down: uniform(d, n, gives),
        };
        let losses = train(on, model, &rows, &mut neurons, (by.count(&STEPS), by.number(&LR)))?;
        if losses.iter().any(|loss| !loss.is_finite()) {
            return Err(Error::numeric("the loss is not finite", "lower lr"));
        }
        let step = |&nll: &f64| LossStep { nll, ..LossStep::default() };
        let trace: Vec<LossStep> = losses.iter().map(step).collect();
        let done = facts.iter().map(|_| FactPlan::trained(trace.clone())).collect();
        let added = neurons.added(model.arch.layers - 1, act, NeuronKind::Calibration, 1.0);
        let memory = Some(EditMemory::Neurons(Arc::new(added)));
        let state = std::mem::take(&mut on.state);
        Ok(Plan { model: model.clone(), facts: done, changes: Vec::new(), memory, state })
    }
}

/// The texts that are trained on.
fn texts(on: &Context, facts: &[TokenizedFact], by: &Params) -> Result<Vec<Completion>> {
    let mut all = Vec::new();
    for fact in facts {
        all.push(fact.rows.completion(0));
        if let Some(text) = on.tokenizer.filter(|_| by.is_on(&PARAPHRASES)) {
            for prompt in &fact.request.paraphrases {
                let prompt = text.encode(prompt)?;
                on.model.arch.check(&[&prompt[..], &fact.rows.target].concat())?;
                all.push(Completion::new(&prompt, &fact.rows.target));
            }
        }
    }
    Ok(all)
}

/// Trains neurons for some steps at a rate; returns the loss before each.
///
/// # Errors
///
/// Cancellation; a device that fails.
pub fn train(
    on: &Context,
    model: &Model,
    rows: &LabelRows,
    neurons: &mut NeuronWeights,
    (steps, lr): (usize, f64),
) -> Result<Vec<f64>> {
    let act = last_mlp(model).act;
    let squares =
        |m: &Mat<f64>| Squares { rows: vec![0.0; m.nrows()], columns: vec![0.0; m.ncols()] };
    let mut moments: Vec<Squares> = neurons.each().map(squares).collect();
    let mut losses = Vec::with_capacity(steps);
    for t in 1..=steps {
        if on.progress.cancelled() {
            return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
        }
        on.progress.at(Stage::Epoch, t as u64 - 1, steps as u64);
        let (nll, gradient) = loss(model, rows, neurons, (act, 1.0), &|_| None)?;
        losses.push(nll);
        for ((x, g), squares) in neurons.each_mut().zip(gradient.each()).zip(&mut moments) {
            *x = plus(x, -lr, &squares.step(g, t));
        }
    }
    on.progress.at(Stage::Epoch, steps as u64, steps as u64);
    Ok(losses)
}

/// What Adafactor keeps of a matrix.
struct Squares {
    rows: Vec<f64>,    // a
    columns: Vec<f64>, // c
}

impl Squares {
    /// û/max(1, rms(û)) of step t, from 1.
    fn step(&mut self, g: &Mat<f64>, t: usize) -> Mat<f64> {
        let [n, m] = [g.nrows(), g.ncols()];
        let beta = 1.0 - (t as f64).powf(-DECAY);
        let square = |i: usize, j: usize| g[(i, j)] * g[(i, j)] + SQUARE;
        for (i, a) in self.rows.iter_mut().enumerate() {
            let mean = (0..m).map(|j| square(i, j)).sum::<f64>() / m as f64;
            *a = beta * *a + (1.0 - beta) * mean;
        }
        for (j, c) in self.columns.iter_mut().enumerate() {
            let mean = (0..n).map(|i| square(i, j)).sum::<f64>() / n as f64;
            *c = beta * *c + (1.0 - beta) * mean;
        }
        let mean = self.rows.iter().sum::<f64>() / n as f64;
        let scale = |i: usize, j: usize| (self.rows[i] / mean * self.columns[j]).sqrt();
        let update = Mat::from_fn(n, m, |i, j| g[(i, j)] / scale(i, j));
        let total: f64 = update.col_iter().flat_map(|c| c.iter()).map(|x| x * x).sum();
        let rms = (total / (n * m) as f64).sqrt();
        times(1.0 / rms.max(1.0), &update)
    }
}
