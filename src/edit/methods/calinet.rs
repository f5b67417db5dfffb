//! CaliNET: neurons beside the last MLP that are trained on all facts together.
//!
//! ```text
//! neurons   n = `neurons`, without a bias; up, gate uniform in ±1/√D, down in ±1/√n
//! loss      −(1/R) Σ_r ln p(y_r | …) over all R tokens of all targets, behind each prompt
//! a step    Adafactor, on all texts                                    training/calibration.rs
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
//! Source: Dong et al. 2022, arXiv:2210.03329.

use std::sync::Arc;

use faer::Mat;

use super::t_patcher::empty;
use crate::base::{Result, Rng};
use crate::edit::cost::Cost;
use crate::edit::fact_report::FactPlan;
use crate::edit::facts::TokenizedFact;
use crate::edit::method::{About, Batching, Context, Method, Plan};
use crate::edit::params::{Absent, Param, ParamKind, Params, Range};
use crate::edit::search::LossStep;
use crate::edit::training::calibration::NeuronTraining;
use crate::edit::training::kept_work::KeptWork;
use crate::edit::training::neurons::{LabelRows, NeuronWeights, check, last_mlp};
use crate::memory::{EditMemory, NeuronKind};
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
        let (model, progress) = (on.model, on.progress);
        let (n, d, act) = (by.count(&NEURONS), model.arch.width, last_mlp(model).act);
        let rows = LabelRows::read(model, &texts(on, facts, by)?)?;
        let mut rng = Rng::new(on.seed, "neurons");
        let mut uniform = |rows, columns, bound: f64| {
            Mat::from_fn(rows, columns, |_, _| bound * (2.0 * rng.uniform() - 1.0))
        };
        let [reads, gives] = [d, n].map(|fan_in| 1.0 / (fan_in as f64).sqrt());
        let mut at = NeuronTraining::new(NeuronWeights {
            gate: empty(model).gate.map(|_| uniform(n, d, reads)),
            up: uniform(n, d, reads),
            bias: None,
            down: uniform(d, n, gives),
        });
        let mut kept = KeptWork::begin(on, ABOUT.name, by, facts, "");
        let parse = |state| NeuronTraining::of(state, &at.neurons);
        if let Some(found) = kept.as_ref().and_then(|kept| kept.read(parse, progress)) {
            let steps = found.losses.len();
            progress.remark(&format!("goes on after step {steps}, as it was cut off"));
            at = found;
        }
        let how = (by.count(&STEPS), by.number(&LR));
        at.run(model, &rows, how, kept.as_mut(), progress)?;
        let step = |&nll: &f64| LossStep { nll, ..LossStep::default() };
        let trace: Vec<LossStep> = at.losses.iter().map(step).collect();
        let done = facts.iter().map(|_| FactPlan::trained(trace.clone())).collect();
        let added = at.neurons.added(model.arch.layers - 1, act, NeuronKind::Calibration, 1.0);
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
