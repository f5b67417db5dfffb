//! What De Cao et al. train an editor for: the edit, while what should stay moves by no more than a
//! margin.
//!
//! ```text
//! loss = edit + α (KL − ξ)      edit the smoothed loss of the outer target
//! α ← max(0, a step up the loss)        trained with the rest, at a rate of its own; 1 at first
//! ξ ← max(ξ_min, 0.8 ξ)         after a look at which the edited model says more than 0.9 of the
//!                               held-out targets after their own prompts
//! best look: the least edit + KL, for α and ξ differ from look to look
//! ```
//!
//! Source: De Cao, Aziz, Titov 2021, arXiv:2104.08164, section 3; the numbers are their code's.

use super::params::{Absent, Param, ParamKind, Params, Range};
use super::train_params::{ACCUMULATE_BS, MAX_ITERS};
use crate::base::{Error, Remedy, Result};
use crate::model::Model;
use crate::model::completion::Completion;
use crate::model::score::score;
use crate::tensor::Tensor;
use crate::train::parameters::Optimiser;
use crate::train::rms_prop::Schedule;
use crate::train::{Parameters, SampleLoss};

/// Whether the editor is trained so.
pub const KL_BOUND: Param = Param {
    name: "kl_bound",
    kind: ParamKind::Switch,
    absent: Absent::Default("false"),
    about: "Train as De Cao et al.: to a bound on KL, by centred RMSprop, with a smoothed loss.",
};
/// ε of the smoothed loss.
pub const EPS: Param = Param {
    name: "eps",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("0.1"),
    about: "Probability that the smoothed loss gives to other tokens than the target's.",
};
/// The rate of α.
pub const LR_ALPHA: Param = Param {
    name: "lr_alpha",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("0.1"),
    about: "Rate of the multiplier that holds KL to its bound.",
};
/// ξ at first.
pub const MARGIN_KL_MAX: Param = Param {
    name: "margin_kl_max",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("1e-3"),
    about: "The bound on KL at first.",
};
/// ξ at least.
pub const MARGIN_KL_MIN: Param = Param {
    name: "margin_kl_min",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("1e-5"),
    about: "The bound on KL at least.",
};
/// Steps of warm-up.
pub const WARMUP_UPDATES: Param = Param {
    name: "warmup_updates",
    kind: ParamKind::Count,
    absent: Absent::Default("1000"),
    about: "Steps in which the rates go up, before they go down to 0.",
};

/// Its tensors beside the editor's, which are of the training alone.
pub const NAMES: [&str; 2] = ["multiplier", "margin"];

/// What ξ is multiplied by, and above which share of targets said.
const TIGHTEN: f64 = 0.8;
const SAID: f64 = 0.9;

/// The numbers of such a training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlBoundRule {
    /// ε.
    pub eps: f64,
    /// Of α.
    pub lr: f64,
    /// ξ at first, and at least.
    pub margins: [f64; 2],
    /// Of all rates.
    pub schedule: Schedule,
}

impl KlBoundRule {
    /// As parameters say, if they ask for it.
    pub fn of(by: &Params) -> Option<KlBoundRule> {
        by.is_on(&KL_BOUND).then(|| KlBoundRule {
            eps: by.number(&EPS),
            lr: by.number(&LR_ALPHA),
            margins: [by.number(&MARGIN_KL_MAX), by.number(&MARGIN_KL_MIN)],
            schedule: Schedule {
                warm_up: by.count(&WARMUP_UPDATES),
                steps: by.count(&MAX_ITERS).div_ceil(by.count(&ACCUMULATE_BS)),
            },
        })
    }
}

/// Refuses numbers that contradict each other.
///
/// # Errors
///
/// Those.
pub fn check(by: &Params) -> Result<()> {
    let Some(KlBoundRule { eps, margins: [first, least], schedule, .. }) = KlBoundRule::of(by)
    else {
        return Ok(());
    };
    let Schedule { warm_up, steps } = schedule;
    let (what, name, remedy) = if eps >= 1.0 {
        (format!("eps is {eps}"), &EPS, "a part of 1 below 1, as 0.1".to_owned())
    } else if least > first {
        let remedy = format!("at most margin_kl_max, {first}");
        (format!("margin_kl_min is {least}"), &MARGIN_KL_MIN, remedy)
    } else if warm_up >= steps {
        let remedy = "fewer, or train on more samples (max_iters)".to_owned();
        (format!("warmup_updates is {warm_up} of {steps} steps"), &WARMUP_UPDATES, remedy)
    } else {
        return Ok(());
    };
    let remedy = Remedy::from(format!("set {remedy}")).hyperparameter(name.name, None);
    Err(Error::refused(what, remedy))
}

/// α and ξ among the parameters, and what was said at a look so far.
pub struct KlBound {
    rule: KlBoundRule,
    multiplier: usize,
    margin: usize,
    said: [usize; 2], // of how many
}

impl KlBound {
    /// Joins the parameters, and makes their steps RMSprop's.
    pub fn new(rule: KlBoundRule, parameters: &mut Parameters) -> KlBound {
        parameters.step_by(Optimiser::RmsProp(rule.schedule));
        let [multiplier, margin] = NAMES;
        KlBound {
            rule,
            multiplier: parameters.add(multiplier, &[1], &[1.0], Some(rule.lr)),
            margin: parameters.add(margin, &[1], &[rule.margins[0]], None),
            said: [0, 0],
        }
    }

    /// ε.
    pub fn eps(&self) -> f64 {
        self.rule.eps
    }

    /// α.
    pub fn multiplier(&self, parameters: &Parameters) -> f64 {
        number(parameters, self.multiplier)
    }

    /// The whole loss, of its two parts.
    pub fn loss(&self, parameters: &Parameters, [edit, kl]: [f64; 2]) -> SampleLoss {
        let excess = kl - number(parameters, self.margin);
        let total = edit + self.multiplier(parameters) * excess;
        SampleLoss { edit, locality: kl, total }
    }

    /// Adds `weight` times the gradient for α, with the sign of a step up.
    pub fn backward(&self, parameters: &mut Parameters, kl: f64, weight: f64) {
        let excess = kl - number(parameters, self.margin);
        let sum = parameters.gradient(self.multiplier).to_f64()[0] - weight * excess;
        let precision = parameters.precision();
        *parameters.gradient_mut(self.multiplier) = Tensor::of(precision, &[1, 1], &[sum]);
    }

    /// Takes down whether an edited model says the edit's target.
    ///
    /// # Errors
    ///
    /// A device that fails.
    pub fn ask(&mut self, edited: &Model, edit: &Completion) -> Result<()> {
        let scores = score(edited, std::slice::from_ref(edit))?;
        self.said[0] += usize::from(scores[0].missed().is_none());
        self.said[1] += 1;
        Ok(())
    }

    /// After a step.
    pub fn stepped(&self, parameters: &mut Parameters) {
        let alpha = self.multiplier(parameters);
        if alpha < 0.0 {
            set(parameters, self.multiplier, 0.0);
        }
    }

    /// After a look.
    pub fn looked(&mut self, parameters: &mut Parameters, loss: &mut SampleLoss) {
        let [said, of] = std::mem::take(&mut self.said);
        if said as f64 > SAID * of as f64 {
            let margin = TIGHTEN * number(parameters, self.margin);
            set(parameters, self.margin, margin.max(self.rule.margins[1]));
        }
        loss.total = loss.edit + loss.locality;
    }
}

fn number(parameters: &Parameters, i: usize) -> f64 {
    parameters.value(i).to_f64()[0]
}

fn set(parameters: &mut Parameters, i: usize, value: f64) {
    let precision = parameters.precision();
    *parameters.value_mut(i) = Tensor::of(precision, &[1, 1], &[value]);
}
