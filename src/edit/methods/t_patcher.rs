//! T-Patcher: a neuron for each token that the model does not say, which is silent elsewhere.
//!
//! ```text
//! for each fact the model, with the neurons so far, does not say; its wrong tokens, the first
//! max_add_neuron_num of them:
//!   u_j (D)   what the last MLP reads where wrong token j is predicted
//!   start     up_j = u_j/‖u_j‖² (gate_j the same, where there is one), b_j = 0: s_j = 1 there;
//!             down_j = amplify_con·v_j, v_j ~ N(0, 1)
//!   loss      −(1/T) Σ_t ln p(y_t | prompt, y_<t) + alc·L_act + mlc·L_mem     training/patches.rs
//! memory      half of the states of `memory_text`, and u of the facts before; the other half is
//!             held out
//! ```
//!
//! s is what the activation reads. Of a run that was cut off, the facts that are done are kept.
//! There is no public code for models that generate alone; what is chosen here:
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
use serde_json::json;

use crate::base::file::read_text;
use crate::base::{Error, Result, Rng, Stage};
use crate::edit::cost::Cost;
use crate::edit::fact_report::FactPlan;
use crate::edit::facts::TokenizedFact;
use crate::edit::method::{About, Batching, Context, Method, Plan};
use crate::edit::params::{Absent, Param, ParamKind, Params, Range};
use crate::edit::search::LossStep;
use crate::edit::state::State;
use crate::edit::training::kept_work::{KeptWork, keep};
use crate::edit::training::neurons::{LabelRows, NeuronWeights, check, last_mlp, read_states};
use crate::edit::training::patches::{PatchTraining, StateMemory};
use crate::memory::{EditMemory, Memory, NeuronKind};
use crate::model::Model;
use crate::model::arch::Arch;
use crate::model::score::score;

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

/// Far above any text for this.
const MAX_BYTES: u64 = 1 << 30;
/// Tokens of a document that run together, at most.
const DOCUMENT: usize = 512;

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

    fn keeps(&self) -> bool {
        true
    }

    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan> {
        let (model, progress) = (on.model, on.progress);
        let mut memory = memory(on, by)?;
        let mut kept = KeptWork::begin(on, ABOUT.name, by, facts, &memory.digest());
        let parse = |state| Patched::of(state, model);
        let found = kept.as_ref().and_then(|kept| kept.read(parse, progress));
        let mut at = found.unwrap_or_else(|| Patched::new(model));
        let before = at.facts.len();
        if before > 0 {
            progress.remark(&format!("goes on after fact {before}, as it was cut off"));
        }
        memory.trained = stacked(&memory.trained, &at.states);
        for (i, fact) in facts.iter().enumerate().skip(before) {
            progress.at(Stage::Fact, i as u64, facts.len() as u64);
            let (own, u, done) = patch(on, fact, &at.neurons, &memory, by)
                .map_err(|e| keep(e, kept.as_mut().filter(|_| i > 0), || Ok(at.state())))?;
            memory.trained = stacked(&memory.trained, &u);
            at.states = stacked(&at.states, &u);
            at.neurons = joined(&at.neurons, &own);
            at.facts.push(done);
            if let Some(kept) = kept.as_mut().filter(|kept| kept.is_due()) {
                kept.write(at.state())?;
            }
        }
        progress.at(Stage::Fact, facts.len() as u64, facts.len() as u64);
        // What comes after it may fail, and then it need not be done again.
        if let Some(kept) = kept.as_mut().filter(|_| before < facts.len()) {
            kept.write(at.state())?;
        }
        let step = |nll| LossStep { nll, ..LossStep::default() };
        let plan = |PatchedFact { losses, wrong }| FactPlan {
            neurons: Some(wrong),
            ..FactPlan::trained(losses.into_iter().map(step).collect())
        };
        let (act, layer) = (last_mlp(model).act, model.arch.layers - 1);
        let added = at.neurons.added(layer, act, NeuronKind::Patches, by.number(&AMPLIFY_CON));
        let memory = Some(EditMemory::Neurons(Arc::new(added)));
        let facts = at.facts.into_iter().map(plan).collect();
        let state = std::mem::take(&mut on.state);
        Ok(Plan { model: model.clone(), facts, changes: Vec::new(), memory, state })
    }
}

/// What was done for a fact: the loss before each step, and its wrong tokens that got neurons.
struct PatchedFact {
    losses: Vec<f64>,
    wrong: usize,
}

/// What the facts so far came to.
struct Patched {
    neurons: NeuronWeights,
    states: Mat<f64>, // u of their targets, which join the memory (R, D)
    facts: Vec<PatchedFact>,
}

/// What is kept of it, beside the neurons.
const STATES: &str = "states";
const LOSSES: &str = "losses";
const FACTS: &str = "facts";

impl Patched {
    fn new(model: &Model) -> Patched {
        let states = Mat::zeros(0, model.arch.width);
        Patched { neurons: empty(model), states, facts: Vec::new() }
    }

    /// As it was kept; at least one fact is done.
    fn of(mut state: State, model: &Model) -> Option<Patched> {
        let counts = state.notes.remove(FACTS)?;
        let counts: Vec<[usize; 2]> = serde_json::from_value(counts).ok()?;
        let losses = state.take(LOSSES).remove(&0);
        let losses = losses.iter().flat_map(|m| m.col_iter()).flat_map(|c| c.iter().copied());
        let mut losses = losses.collect::<Vec<f64>>().into_iter();
        let fact = |[steps, wrong]: [usize; 2]| PatchedFact {
            losses: losses.by_ref().take(steps).collect(),
            wrong,
        };
        let facts = counts.into_iter().map(fact).collect();
        let states = Mat::clone(state.take(STATES).get(&0)?);
        Some(Patched { neurons: NeuronWeights::take(&mut state, &empty(model))?, states, facts })
    }

    fn state(&self) -> State {
        let mut state = State::default();
        self.neurons.put(&mut state);
        state.put(STATES, [(0, Arc::new(self.states.clone()))].into());
        let losses: Vec<f64> = self.facts.iter().flat_map(|fact| fact.losses.clone()).collect();
        if !losses.is_empty() {
            let losses = Mat::from_fn(losses.len(), 1, |i, _| losses[i]);
            state.put(LOSSES, [(0, Arc::new(losses))].into());
        }
        let counts = self.facts.iter().map(|fact| [fact.losses.len(), fact.wrong]);
        state.notes.insert(FACTS.to_owned(), json!(counts.collect::<Vec<_>>()));
        state
    }
}

/// Neurons for the wrong tokens of a fact on the model with others; u where its target is
/// predicted; and what was done.
fn patch(
    on: &Context,
    fact: &TokenizedFact,
    others: &NeuronWeights,
    memory: &StateMemory,
    by: &Params,
) -> Result<(NeuronWeights, Mat<f64>, PatchedFact)> {
    let (model, training) = (on.model, training(by));
    let (act, layer) = (last_mlp(model).act, model.arch.layers - 1);
    let text = fact.rows.completion(0);
    let now = others.added(layer, act, NeuronKind::Patches, training.amplify);
    let with = Arc::new(now).on(Arc::new(model.clone()))?;
    let said = score(&*with, std::slice::from_ref(&text))?;
    let wrong = said[0].tokens.iter().enumerate().filter(|(_, token)| !token.is_hit());
    let wrong: Vec<usize> = wrong.map(|(t, _)| t).take(by.count(&MAX_NEURONS)).collect();
    let mut rows = LabelRows::read(model, &[text])?;
    rows.add(others, act, training.amplify);
    let (mut own, mut losses) = (empty(model), Vec::new());
    if !wrong.is_empty() {
        let rng = &mut Rng::new(on.seed, &format!("neurons of {}", fact.request.id));
        own = start(model, &rows, &wrong, rng);
        let trained = training.run(model, &rows, &wrong, &mut own, memory, on.progress);
        losses = trained.map_err(|e| match e {
            Error::Numeric { what, remedy } => {
                Error::numeric(format!("fact `{}`: {what}", fact.request.id), *remedy)
            }
            e => e,
        })?;
    }
    Ok((own, rows.u, PatchedFact { losses, wrong: wrong.len() }))
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
