//! UltraEdit: one pass forward and one back a fact, and a linear system of its tokens; no subject,
//! no statistics, any matrix.
//!
//! ```text
//! W (out, in)   the edited matrices, `matrices` of `layers`
//! for each turn of n_edits facts, on the model as those before it left it:
//!     loss of a micro-batch of batch_size facts = mean over its target tokens of −ln p    loss
//!     X (M, in)    what W reads at the M tokens that say the targets      training/capture.rs
//!     G (M, out)   ∂loss/∂(what W gives) there
//!     x̂, ĝ         rows normalised by the running mean and spread of [x; g] of all matrices of
//!                  W's shape, these rows among them                    training/normaliser.rs
//!     V (M, out)   v = −lr ‖x̂‖² ĝ, row by row
//!     W ← W + ((XᵀX + I)⁻¹XᵀV)ᵀ = W + (Xᵀ(XXᵀ + I)⁻¹V)ᵀ              linalg/least_squares.rs
//! ```
//!
//! The second form is M wide. What is normalised by goes on from turn to turn and, in a state, from
//! run to run. A turn's facts are run together, so how many there is memory for changes nothing.
//! With `loss` mean a fact's gradient has a part of 1/(its micro-batch's tokens), so it depends on
//! the facts beside it; with sum it does not. Turns and micro-batches are parameters, and so part
//! of a patch's record; in batches one upon the other, a batch is a turn.
//!
//! The public code rounds to f32 what is f64 here, counts spread twice over (`spread`, which can be
//! asked for), and wants n_edits to be a multiple of batch_size. EasyEdit's copy loses the running
//! mean and spread at each call, and takes all tokens of a text; neither is done here. Source: Gu
//! et al. 2025, arXiv:2505.14679.

use faer::Mat;

use super::fine_tuning::{changed, moved};
use crate::base::{Error, Remedy, Result, Stage, catch_device_error};
use crate::edit::cost::Cost;
use crate::edit::fact_report::FactPlan;
use crate::edit::facts::TokenizedFact;
use crate::edit::method::{About, Batching, Context, Method, Needs, Plan};
use crate::edit::params::{self, Absent, Param, ParamKind, Params, Range};
use crate::edit::search::LossStep;
use crate::edit::solve::delta::pack;
use crate::edit::state::State;
use crate::edit::training::capture::{Capture, Captured};
use crate::edit::training::kept_turns::Turns;
use crate::edit::training::kept_work::{KeptWork, keep};
use crate::edit::training::memory::TrainingMemory;
use crate::edit::training::normaliser::{self, Normaliser, Normalisers, SpreadRule};
use crate::edit::training::texts::{TrainingObjective, TrainingText};
use crate::linalg::least_squares::{self, Prior, Route, on_host};
use crate::model::arch::Arch;
use crate::model::change::dense;
use crate::model::{MatrixId, Model};
use crate::store::Delta;
use crate::tensor::Tensor;

/// UltraEdit, as methods are listed.
pub static ULTRAEDIT: UltraEdit = UltraEdit;

/// See [`ULTRAEDIT`].
pub struct UltraEdit;

static ABOUT: About = About {
    name: "ultraedit",
    summary: "Changes matrices by one gradient a fact and a small linear system; for hundreds of \
              thousands of facts.",
    paper: "Gu et al. 2025, arXiv:2505.14679",
    changes: "any matrices of any layers, by default the MLP down projection",
    needs: "nothing; a state, to go on from earlier edits",
    presets: "ultraedit",
};

const LAYERS: Param = Param { about: "The edited layers.", ..params::LAYERS };
const LR: Param = Param {
    name: "lr",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("1e-6"),
    about: "How far a normalised gradient moves what a matrix gives.",
};
const N_EDITS: Param = Param {
    name: "n_edits",
    kind: ParamKind::Count,
    absent: Absent::Default("100"),
    about: "Facts of a turn, whose changes are solved for together.",
};
const BATCH_SIZE: Param = Param {
    name: "batch_size",
    kind: ParamKind::Count,
    absent: Absent::Default("10"),
    about: "Facts of a micro-batch, over whose tokens the loss is a mean.",
};
const LOSS: Param = Param {
    name: "loss",
    kind: ParamKind::Choice(&["mean", "sum"]),
    absent: Absent::Default("\"mean\""),
    about: "The loss of a micro-batch: the mean over its tokens, or their sum, with which a fact's \
            gradient does not depend on the facts beside it.",
};
const SPREAD: Param = Param {
    name: "spread",
    kind: ParamKind::Choice(&["exact", "public"]),
    absent: Absent::Default("\"exact\""),
    about: "How the spread of a micro-batch joins the running one: as if all rows had come at \
            once, or as in the public code, which counts a little more.",
};

static PARAMS: [&Param; 7] =
    [&LAYERS, &params::MATRICES, &LR, &N_EDITS, &BATCH_SIZE, &LOSS, &SPREAD];

impl Method for UltraEdit {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn params(&self) -> &'static [&'static Param] {
        &PARAMS
    }

    fn batching(&self) -> Batching {
        Batching::Turns
    }

    fn needs(&self, _: &Params, _: &State) -> Needs {
        Needs { state: true, ..Needs::default() }
    }

    fn cost(&self, on: &Context, facts: &[TokenizedFact], by: &Params) -> Cost {
        let texts = texts(facts);
        let ids = by.edited();
        let memory = TrainingMemory::new(on.model, &ids, &texts, false, on.memory);
        let n = facts.len().max(1) as u64;
        let tokens: u64 = texts.iter().map(|text| text.ids.len() as u64).sum();
        let wanted: usize = texts.iter().map(|text| text.wanted.len()).sum();
        let turn = (turn(by, on.sequential) as u64).min(n);
        let sizes = ids.iter().map(|&id| on.model.matrix(id).w.dims());
        let m = wanted * turn as usize / n as usize;
        let rows: usize = sizes.clone().map(|[out, inner]| 8 * m * (out + inner)).sum();
        let solves = sizes.map(|[out, inner]| [inner, m, out]);
        let largest = solves.max().unwrap_or_default();
        let route = Route::choose(&Prior::Scaled(1.0), 1.0, largest);
        Cost {
            bytes_a_fact: memory.token * tokens / n,
            fixed_bytes: memory.matrices + memory.fixed,
            at_a_time: (memory.most as u64 * n / tokens.max(1)).clamp(1, turn),
            solve_bytes: rows as u64 + route.bytes(largest),
            system: Some(route),
            training: None,
            flop: memory.flop.iter().sum(),
        }
    }

    fn state_settings(&self, by: &Params) -> String {
        let (all, edited) = (by.matrices(), by.edited());
        let matrices: Vec<String> = match edited.len() == all.len() * by.layers().len() {
            true => all.iter().map(|matrix| matrix.name().to_owned()).collect(),
            false => edited.iter().map(MatrixId::to_string).collect(),
        };
        // What the normaliser's gradients are of; a mean depends on how many share it.
        let loss = match by.is(&LOSS, "sum") {
            true => "sum".to_owned(),
            false => format!("mean of {}", by.count(&BATCH_SIZE)),
        };
        let spread = if by.is(&SPREAD, "public") { "public" } else { "exact" };
        format!("layers {:?}, matrices {matrices:?}, loss {loss}, spread {spread}", by.layers())
    }

    fn check_state(
        &self,
        path: &std::path::Path,
        state: &State,
        _: &Params,
        _: &Arch,
    ) -> Result<()> {
        normaliser::check(path, state)
    }

    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan> {
        let texts = texts(facts);
        for (fact, text) in facts.iter().zip(&texts) {
            check_text(on.model, fact, text)?;
        }
        let ids = by.edited();
        let run = Run::new(by, &ids, on.sequential);
        // One turn is done or not.
        let begin = |on: &mut Context| KeptWork::begin(on, ABOUT.name, by, facts, "");
        let mut kept = (texts.len() > run.turn).then(|| begin(on)).flatten();
        let mut state = std::mem::take(&mut on.state);
        let mut at = Turns { normalisers: normaliser::take(&mut state), ..Turns::default() };
        let mut model = on.model.with_own(&ids);
        if let Some(kept) = &kept {
            let compute = model.compute.clone();
            let restore = |state| Turns::restore(state, &mut model, &ids);
            let found = compute.run(|| Ok(kept.read(restore, on.progress)))?;
            if let Some(found) = found {
                let turn = found.done;
                on.progress.remark(&format!("goes on after turn {turn}, as it was cut off"));
                at = found;
            }
        }
        let before = at.done;
        let one = catch_device_error(|| {
            let taken = run.turns(on, &mut model, facts, &texts, &mut at, kept.as_mut());
            let kept = kept.as_mut().filter(|_| at.done > 0);
            taken.map_err(|e| keep(e, kept, || at.state(&model, &ids)))
        })?;
        // What comes after it may fail, and then it need not be done again.
        if let Some(kept) = kept.as_mut().filter(|_| before < at.done) {
            kept.write(at.state(&model, &ids)?)?;
        }
        normaliser::put(&at.normalisers, &mut state);
        let now = || Ok(ids.iter().map(|&id| model.own(id).to_f64()).collect::<Vec<_>>());
        let (model, changes) = match one {
            Some(deltas) => changed(on.model, &ids, deltas),
            None => moved(on.model, &ids, &model.compute.run(now)?),
        };
        let step = |nll| vec![LossStep { nll, ..LossStep::default() }];
        let facts = at.losses.into_iter().map(|nll| FactPlan::trained(step(nll))).collect();
        Ok(Plan { model, facts, changes, memory: None, state })
    }
}

/// Facts of a turn.
fn turn(by: &Params, sequential: usize) -> usize {
    if sequential > 0 { sequential } else { by.count(&N_EDITS) }
}

fn texts(facts: &[TokenizedFact]) -> Vec<TrainingText> {
    facts.iter().map(|f| TrainingText::new(f, TrainingObjective::Target, None)).collect()
}

fn check_text(model: &Model, fact: &TokenizedFact, text: &TrainingText) -> Result<()> {
    model.arch.check(&text.ids).map_err(|e| match e {
        Error::Refused { what, remedy } => {
            Error::refused(format!("record `{}`: {what}", fact.request.id), *remedy)
        }
        e => e,
    })
}

/// How turns are taken.
struct Run<'r> {
    ids: &'r [MatrixId],
    lr: f64,
    turn: usize,
    micro: usize,
    sum: bool,
    merge: SpreadRule,
}

impl<'r> Run<'r> {
    fn new(by: &Params, ids: &'r [MatrixId], sequential: usize) -> Run<'r> {
        Run {
            ids,
            lr: by.number(&LR),
            turn: turn(by, sequential),
            micro: by.count(&BATCH_SIZE),
            sum: by.is(&LOSS, "sum"),
            merge: if by.is(&SPREAD, "public") { SpreadRule::Public } else { SpreadRule::Exact },
        }
    }

    /// Takes the turns that are left. The changes of the only one, where there is but one.
    fn turns(
        &self,
        on: &Context,
        model: &mut Model,
        facts: &[TokenizedFact],
        texts: &[TrainingText],
        at: &mut Turns,
        mut kept: Option<&mut KeptWork>,
    ) -> Result<Option<Vec<Delta>>> {
        let memory = TrainingMemory::new(on.model, self.ids, texts, false, on.memory);
        let mut capture = Capture::new(model, self.ids, memory.most);
        let (n, progress) = (texts.len(), on.progress);
        let mut one = None;
        for (t, turn) in texts.chunks(self.turn).enumerate().skip(at.done) {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
            }
            let first = t * self.turn;
            progress.at(Stage::Fact, first as u64, n as u64);
            let seen = capture.run(model, turn, &self.weights(turn))?;
            if let Some(i) = seen.losses.iter().position(|loss| !loss.is_finite()) {
                return Err(not_finite(&facts[first + i].request.id, t));
            }
            let mean = seen.losses.iter().sum::<f64>() / seen.losses.len() as f64;
            self.normalise(&mut at.normalisers, turn, &seen);
            let deltas = self.deltas(&at.normalisers, &seen, t)?;
            for (&id, delta) in self.ids.iter().zip(&deltas) {
                add(model, id, delta)?;
            }
            one = (n <= self.turn).then_some(deltas);
            at.done = t + 1;
            at.losses.extend(seen.losses);
            progress.detail(&format!("turn {}, loss {mean:.3}", at.done));
            if let Some(kept) = kept.as_mut().filter(|kept| kept.is_due()) {
                kept.write(at.state(model, self.ids)?)?;
            }
        }
        progress.at(Stage::Fact, n as u64, n as u64);
        Ok(one)
    }

    /// The weight of each text of a turn in the loss of its micro-batch.
    fn weights(&self, turn: &[TrainingText]) -> Vec<f64> {
        let of = |micro: &[TrainingText]| {
            let tokens: usize = micro.iter().map(|text| text.wanted.len()).sum();
            let weight = if self.sum { 1.0 } else { 1.0 / tokens as f64 };
            vec![weight; micro.len()]
        };
        turn.chunks(self.micro).flat_map(of).collect()
    }

    /// Takes a turn's rows in, micro-batch by micro-batch and matrix by matrix.
    fn normalise(&self, all: &mut Normalisers, turn: &[TrainingText], seen: &Captured) {
        let mut from = 0;
        for micro in turn.chunks(self.micro) {
            let b: usize = micro.iter().map(|text| text.wanted.len()).sum();
            for (x, g) in seen.x.iter().zip(&seen.g) {
                let shape = [g.nrows(), x.nrows()];
                let own = all.entry(shape);
                let own = own.or_insert_with(|| Normaliser::new(x.nrows() + g.nrows()));
                own.add([x, g].map(|m| m.subcols(from, b)), self.merge);
            }
            from += b;
        }
    }

    /// Δ of each matrix.
    fn deltas(&self, all: &Normalisers, seen: &Captured, turn: usize) -> Result<Vec<Delta>> {
        let delta = |(x, g): (&Mat<f64>, &Mat<f64>)| {
            let normaliser = &all[&[g.nrows(), x.nrows()]];
            let x_hat = normaliser.normalised(x, 0);
            let mut v = normaliser.normalised(g, x.nrows());
            for (v, x) in v.col_iter_mut().zip(x_hat.col_iter()) {
                let scale = -self.lr * x.squared_norm_l2();
                v.iter_mut().for_each(|v| *v *= scale);
            }
            let prior = Prior::Scaled(1.0);
            let route = Route::choose(&prior, 1.0, [x.nrows(), x.ncols(), v.nrows()]);
            let solved = least_squares::solve(&prior, 1.0, x, &v, route, &on_host);
            let finite = solved.filter(|_| v.col_iter().all(|v| v.iter().all(|v| v.is_finite())));
            let solved = finite.ok_or_else(|| {
                let what = format!("turn {}: the system of its tokens has no solution", turn + 1);
                let remedy = Remedy::from("set a smaller lr").hyperparameter("lr", None);
                Error::numeric(what, remedy)
            })?;
            Ok(pack(&solved, &v))
        };
        seen.x.iter().zip(&seen.g).map(delta).collect()
    }
}

/// W ← W + Δ, in the type that is computed in.
fn add(model: &mut Model, id: MatrixId, delta: &Delta) -> Result<()> {
    let compute = model.compute.clone();
    let dims = model.matrix(id).w.dims();
    compute.clone().run(|| {
        let mut w = model.own(id).to_f64();
        w.iter_mut().zip(dense(delta, dims)).for_each(|(w, d)| *w += d);
        *model.own_mut(id) = Tensor::of(&compute, &dims, &w);
        Ok(())
    })
}

/// Earlier turns may have moved too far, or the checkpoint be broken.
fn not_finite(name: &str, turns: usize) -> Error {
    let what = format!("the loss of `{name}` is not finite after {turns} turns");
    match turns {
        0 => Error::numeric(what, "check the checkpoint for NaN weights"),
        _ => Error::numeric(what, Remedy::from("set a smaller lr").hyperparameter("lr", None)),
    }
}
