//! GRACE: a codebook beside one matrix, in which each prompt has a value of its own.
//!
//! ```text
//! for each fact the model, with the codebook so far, does not say:
//!   x ← what the matrix reads at the prompt's last token
//!   the codebook admits (x, y): `memory/codebook.rs`; v its entry's value, where it is new
//!       uniform in [0, 1), or what the matrix gives there
//!   n_iter times:  v ← Adam(v, ∂loss/∂v)      loss = −(1/T) Σ_t ln p(y_t | prompt, y_<t), where
//!                                             the matrix gives v at the tokens replaced
//! ```
//!
//! The weights stay as they are. Where the public code differs:
//!
//! * EasyEdit puts a new label before the others and the new key behind them, so that from the
//!   second entry on an edit is compared with another's label; here they are one entry.
//! * Labels are equal where their ids are, not where the ids' means are.
//! * A prompt that is a key already, with another label, gets that label and a new value; there it
//!   gets a second key at the same place, which is never found.
//! * A radius that grows to a prompt reaches 2⁻¹⁴ of the distance farther, so that a lookup that
//!   rounds otherwise finds it; there, it ends at the prompt.
//! * The token that is looked up is the prompt's last in every sequence; there, outside generation,
//!   it is the last edit's.
//!
//! As there, a split sets both radii to half the distance, which may enlarge the older one.
//!
//! Source: Hartvigsen et al. 2023, arXiv:2211.11031.

use std::sync::Arc;

use crate::base::{Error, Result, Rng, Stage};
use crate::edit::cost::Cost;
use crate::edit::fact_report::FactPlan;
use crate::edit::facts::TokenizedFact;
use crate::edit::method::{About, Batching, Context, Method, Plan};
use crate::edit::params::{self, Absent, Param, ParamKind, Params, Range};
use crate::edit::search::LossStep;
use crate::edit::training::value::{TextSize, ValueTraining};
use crate::memory::codebook::Admitted;
use crate::memory::{Codebook, EditMemory, Memory, Replacement};
use crate::model::arch::Arch;
use crate::model::score::{read, score};
use crate::model::{At, LanguageModel, MatrixId, Site};

/// The method, as it is listed.
pub static GRACE: Grace = Grace;

/// See [`GRACE`].
pub struct Grace;

static ABOUT: About = About {
    name: "grace",
    summary: "Keeps a value for each prompt in a codebook beside one matrix; no weight changes.",
    paper: "Hartvigsen et al. 2023, arXiv:2211.11031",
    changes: "nothing: what one matrix gives at the prompts it knows",
    needs: "nothing",
    presets: "grace",
};

const MATRIX: Param =
    Param { about: "The matrix that the codebook is beside: one.", ..params::MATRICES };
const N_ITER: Param = Param {
    name: "n_iter",
    kind: ParamKind::Count,
    absent: Absent::Default("100"),
    about: "Adam's steps for a value.",
};
const EDIT_LR: Param = Param {
    name: "edit_lr",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("1.0"),
    about: "Adam's rate.",
};
const EPS: Param = Param {
    name: "eps",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("1.0"),
    about: "The radius of a new key.",
};
const VAL_INIT: Param = Param {
    name: "val_init",
    kind: ParamKind::Choice(&["cold", "warm"]),
    absent: Absent::Default("\"cold\""),
    about: "Where a value begins: at random (cold), or at what the matrix gives (warm).",
};
const REPLACEMENT: Param = Param {
    name: "replacement",
    kind: ParamKind::Choice(&["replace_last", "replace_prompt", "replace_all"]),
    absent: Absent::Default("\"replace_last\""),
    about: "The tokens that get the value: the prompt's last, those before it, or all, also those \
            that follow.",
};

static PARAMS: [&Param; 7] =
    [&params::LAYER, &MATRIX, &N_ITER, &EDIT_LR, &EPS, &VAL_INIT, &REPLACEMENT];

impl Method for Grace {
    fn about(&self) -> &'static About {
        &ABOUT
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

    fn check_model(&self, by: &Params, _: &Arch) -> Result<()> {
        match &by.matrices()[..] {
            [_] => Ok(()),
            all => {
                let what = format!("grace has a codebook beside one matrix, not {}", all.len());
                Err(Error::refused(what, "name one in matrices"))
            }
        }
    }

    fn cost(&self, on: &Context, facts: &[TokenizedFact], by: &Params) -> Cost {
        let model = on.model;
        let training = self.training(by);
        let sizes: Vec<TextSize> = facts.iter().map(TextSize::of).collect();
        let above = training.id.layer..model.arch.layers;
        let above: usize = above.map(|l| model.weights_of_layer(l)).sum();
        let head = model.arch.vocabulary * model.arch.width;
        let products = |size: &TextSize| (above * size.tokens + head * size.target) as f64;
        Cost {
            bytes_a_fact: sizes.iter().map(|&s| training.bytes(model, s)).max().unwrap_or(0),
            fixed_bytes: 0,
            at_a_time: 1,
            solve_bytes: 0,
            system: None,
            training: None,
            // Forward and backward are 2 a weight and token each.
            flop: 4.0 * sizes.iter().map(products).sum::<f64>() * by.count(&N_ITER) as f64,
        }
    }

    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan> {
        let (model, progress) = (on.model, on.progress);
        let training = self.training(by);
        let ValueTraining { id, replacement, .. } = training;
        training.check(facts)?;
        let [out, inner] = model.matrix(id).w.dims();
        let mut book = Codebook::new(id, [inner, out], replacement);
        let mut rng = Rng::new(on.seed, "values of a codebook");
        let base: Arc<dyn LanguageModel> = Arc::new(model.clone());
        let mut with = base.clone(); // with the codebook as it is
        let mut done = Vec::new();
        for (i, fact) in facts.iter().enumerate() {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
            }
            progress.at(Stage::Fact, i as u64, facts.len() as u64);
            let text = fact.rows.completion(0);
            if score(&*with, std::slice::from_ref(&text))?[0].missed().is_none() {
                done.push(FactPlan::trained(Vec::new()));
                continue;
            }
            let prompt = &fact.rows.keys[0].ids[..];
            let at = |at| -> Result<Vec<f32>> {
                let site = Site { layer: id.layer, at };
                let row = read(model, &[prompt], site)?.row_f64(0);
                Ok(row.into_iter().map(|x| x as f32).collect())
            };
            let start = match by.is(&VAL_INIT, "warm") {
                true => at(At::Output(id.matrix))?,
                false => (0..out).map(|_| rng.uniform() as f32).collect(),
            };
            let query = at(At::Input(id.matrix))?;
            let admitted = book.admit(&query, &fact.rows.target, start, by.number(&EPS));
            let entry = match admitted {
                Admitted::Known(j) => j,
                Admitted::Added | Admitted::Split(_) => book.entries.len() - 1,
            };
            let value = &mut book.entries[entry].value;
            let losses = training.run(model, &text, value, by.count(&N_ITER), progress)?;
            if losses.iter().any(|loss| !loss.is_finite()) {
                let what = format!("fact `{}`: the loss is not finite", fact.request.id);
                return Err(Error::numeric(what, "lower edit_lr"));
            }
            with = Arc::new(book.clone()).on(base.clone())?;
            done.push(FactPlan::trained(losses.into_iter().map(step).collect()));
        }
        progress.at(Stage::Fact, facts.len() as u64, facts.len() as u64);
        let state = std::mem::take(&mut on.state);
        let memory = Some(EditMemory::Codebook(Arc::new(book)));
        let (model, changes) = (model.clone(), Vec::new());
        Ok(Plan { model, facts: done, changes, memory, state })
    }
}

impl Grace {
    fn training(&self, by: &Params) -> ValueTraining {
        let is = |(_, name): &(Replacement, &str)| by.is(&REPLACEMENT, name);
        ValueTraining {
            id: MatrixId::new(by.last_layer(), by.matrices()[0]),
            replacement: Replacement::ALL.into_iter().find(is).expect("one of the choices").0,
            lr: by.number(&EDIT_LR),
        }
    }
}

/// The loss of a step.
fn step(nll: f64) -> LossStep {
    LossStep { nll, ..LossStep::default() }
}
