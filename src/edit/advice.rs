//! Why a fact was not taken, and what would help: told from what its search reached, from what the
//! edited model says after other contexts, and from what the method can be told.

use super::fact_report::FactPlan;
use super::method::{Batching, Method};
use super::methods::fine_tuning::{FT_L, LOCFT_BF, NORM_CONSTRAINT};
use super::methods::pmet::NLL_LOSS_FACTOR;
use super::params::{CLAMP_NORM_FACTOR, KEY_AVERAGE, Params};
use super::search::LossStep;
use crate::base::units::{counted, percent};
use crate::data::Contexts;
use crate::data::contexts::Average;

/// A probability from which on tokens are said to be likely.
const LIKELY: f64 = 0.5;
/// The share of a change from which on rounding is said to spoil it.
const SPOILT: f64 = 0.1;

/// Parameters of which less brings the weights closer to the values.
pub const LESS: [&str; 3] = ["mom2_update_weight", "emmet_lambda", "L2"];
/// Those of which more does.
const MORE: [&str; 1] = ["nullspace_threshold"];

/// What facts were edited with.
pub struct Edited<'a> {
    /// How.
    pub method: &'a dyn Method,
    /// With which parameters.
    pub params: &'a Params,
    /// In which contexts.
    pub contexts: &'a Contexts,
    /// How many of them, at once or one after another.
    pub facts: usize,
    /// The largest share of a layer's change that rounding to the stored type lost.
    pub lost: f64,
}

/// How the target of a fact that was not taken came out in the edited model.
pub struct Outcome<'a> {
    /// The target's token that is not said, and what is.
    pub token: [&'a str; 2],
    /// P of the target after the bare prompt.
    pub p: f64,
    /// The mean P after the prompt in the other contexts; none where there are none.
    pub in_contexts: Option<f64>,
}

impl Edited<'_> {
    /// The reason, and what to try.
    pub fn why(&self, plan: &FactPlan, out: &Outcome) -> String {
        if plan.left_out {
            let why = "left out: its value ran away, beyond twice the norm anchor";
            return format!("{why}; try fewer v_num_grad_steps or a smaller v_lr");
        }
        let [token, says] = out.token;
        let p = percent(out.p);
        let because = match self.method.batching() {
            _ if let Some(own) = self.method.why_missed(plan, self.params) => own,
            Batching::Epochs => self.because_of_training(plan),
            Batching::Turns => self.because_of_its_turn(plan),
            _ if self.method.makes_memory() => self.because_of_memory(plan),
            _ if self.method.is_trained() => self.because_of_editor(),
            Batching::OneByOne | Batching::Together => self.because(plan, out),
        };
        format!("the edited model says {says:?} in place of {token:?}, P {p}: {because}")
    }

    fn because(&self, plan: &FactPlan, out: &Outcome) -> String {
        // PMET weighs this term of its loss.
        let weight = self.params.number_if_given(&NLL_LOSS_FACTOR).unwrap_or(1.0);
        let found = plan.trace.last().map_or(0.0, |last| (-last.nll / weight).exp());
        if found < LIKELY {
            return self.not_found(plan, found);
        }
        if self.lost >= SPOILT {
            return self.spoilt("its value was found");
        }
        match out.in_contexts {
            Some(p) if p >= LIKELY => self.only_in_contexts(plan, p),
            _ => {
                let ways = self.reach();
                format!("its value was found, and the weights do not reach it; try {ways}")
            }
        }
    }

    /// Of a fact that was trained on. Its loss is told as such: it is of all that was trained on,
    /// and P of the target alone.
    fn because_of_training(&self, plan: &FactPlan) -> String {
        let nll = |step: Option<&LossStep>| step.map_or(f64::INFINITY, |step| step.nll);
        let [first, last] = [plan.trace.first(), plan.trace.last()].map(nll);
        let name = self.method.about().name;
        let end = match name == LOCFT_BF.about().name {
            true => ", the end of text among them",
            false => "",
        };
        if (-last).exp() < LIKELY {
            let bound = self.params.number_if_given(&NORM_CONSTRAINT).is_some();
            let more = match &self.params.matrices()[..] {
                _ if last > first => "a smaller lr",
                _ if bound => "a larger norm_constraint, more num_steps, more matrices",
                [_] => "more num_steps, a larger lr, more matrices",
                _ => "more num_steps, a larger lr",
            };
            let epochs = plan.trace.len();
            return format!(
                "{epochs} epochs of training took its loss from {first:.2} to {last:.2} for each \
                 of its tokens{end}; try {more} or another layer"
            );
        }
        if self.lost >= SPOILT {
            return self.spoilt("it was learnt");
        }
        match name == FT_L.about().name {
            true => "all tokens of the target are asked for at the prompt's last token, and said \
                     one after another; try ft-m"
                .to_owned(),
            false => format!(
                "its loss was {last:.2} for each of its tokens{end}, before the last step, which \
                 went elsewhere; try more num_steps or a smaller lr"
            ),
        }
    }

    /// Of a fact that was taken in once.
    fn because_of_its_turn(&self, plan: &FactPlan) -> String {
        if self.lost >= SPOILT {
            return self.spoilt("its turn moved the matrices");
        }
        let loss = plan.trace.last().map_or(f64::INFINITY, |step| step.nll);
        format!(
            "its loss was {loss:.2} for each of its tokens before its turn, which moved the \
             matrices too little, or later turns moved them back; try a larger lr, more matrices \
             or other layers"
        )
    }

    /// Of a value of its own for the prompt.
    fn because_of_memory(&self, plan: &FactPlan) -> String {
        let (steps, losses) = (plan.trace.len(), [plan.trace.first(), plan.trace.last()]);
        if let [Some(first), Some(last)] = losses.map(|step| step.map(|step| step.nll))
            && (-last).exp() < LIKELY
        {
            let steps = counted(steps as u64, "step");
            return format!(
                "{steps} took the loss of its value from {first:.2} to {last:.2} for each of its \
                 tokens; try more n_iter or another edit_lr"
            );
        }
        // Of a fact that was said before it there is no value, and another's can be in reach.
        let own = if steps == 0 { "it was said without one" } else { "its own was found" };
        format!(
            "{own}, and the value of another prompt is in its place, whose key is nearer or which \
             came later to the same key; try a smaller eps"
        )
    }

    /// Of a change that a trained editor made.
    fn because_of_editor(&self) -> String {
        if self.lost >= SPOILT {
            return self.spoilt("its change was made");
        }
        let why = match self.facts {
            1 => "the change that its editor makes does not say it",
            _ => "the change that its editor makes does not say it, or later facts undid it",
        };
        format!("{why}; try an editor that was trained on more samples, or on such prompts")
    }

    /// Of a change that rounding spoils.
    fn spoilt(&self, found: &str) -> String {
        let lost = percent(self.lost);
        format!(
            "{found}, and rounding to the stored type loses {lost} of the change; edit the model \
             in F32"
        )
    }

    /// Of a search that ended where the target's tokens have the mean probability `p`.
    fn not_found(&self, plan: &FactPlan, p: f64) -> String {
        let [moved, t0] = plan.value.unwrap_or_default();
        let more = match moved > 0.99 * self.params.number(&CLAMP_NORM_FACTOR) * t0 {
            true => "a larger clamp_norm_factor",
            false => "more v_num_grad_steps, a larger v_lr",
        };
        let (p, steps) = (percent(p), plan.trace.len());
        format!("its search got to P {p} a token in {steps} steps; try {more} or another layer")
    }

    /// Of a fact that is known after other text, and not by itself.
    fn only_in_contexts(&self, plan: &FactPlan, p: f64) -> String {
        let far = plan.key_cosine.map_or(String::new(), |cosine| {
            format!(
                ", whose key has a cosine of {cosine:.2} to the average that the change is made for"
            )
        });
        let weight = |average| self.contexts.weights(average)[0];
        let lighter = weight(Average::Flat) < weight(Average::Grouped);
        let remedy = match self.params.is(&KEY_AVERAGE, "flat") && lighter {
            true => "key_average grouped, in which it weighs as much as all other contexts",
            false => "fewer contexts or another layer",
        };
        let p = percent(p);
        format!(
            "the target is likely after other text (P {p}) and not after the bare prompt{far}; \
             try {remedy}"
        )
    }

    /// What brings the weights closer to a value that was found.
    fn reach(&self) -> String {
        if self.method.batching() == Batching::OneByOne {
            return match self.facts {
                1 => "another layer",
                _ => "another layer, or memit: later facts may have undone this one",
            }
            .to_owned();
        }
        let mut ways = Vec::new();
        if self.facts > 1 {
            ways.push("fewer facts at once".to_owned());
        }
        ways.push("more layers".to_owned());
        let has = |name: &&str| self.method.params().iter().any(|p| p.name == *name);
        ways.extend(LESS.iter().filter(|p| has(p)).map(|name| format!("a smaller {name}")));
        ways.extend(MORE.iter().filter(|p| has(p)).map(|name| format!("a larger {name}")));
        ways.join(", ")
    }
}
