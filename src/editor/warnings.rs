//! What to be wary of in an edit that was planned: matrices that changed too much, layers that give
//! too little, facts that were not taken.

use super::{Edit, Editor};
use crate::base::Progress;
use crate::base::units::{counted, percent, times};
use crate::data::Fact;
use crate::edit::advice::LESS;

/// Failed facts that are named.
const NAMED: usize = 10;
/// s below which a layer misses most of what it is to give.
const SMALL_S: f64 = 0.5;

impl Editor {
    /// Warns of ids that differ from the reference framework's, where no edit does.
    pub(super) fn warn_of_ids(&self) {
        if let Some(difference) = &self.opened.tokenizer.difference {
            self.settings.progress.warn(difference);
        }
    }
}

impl Edit {
    /// Warns of matrices that changed too much, and of facts that were not taken.
    pub fn warn(&self, progress: &dyn Progress) {
        for c in self.changes() {
            if c.norm > c.weight {
                progress.warn(&format!(
                    "the change of {} is {} times as large as the matrix itself (norm {:.3e}), \
                     and the model will suffer: the layer's keys are nearly silent, or the facts \
                     too many for it; edit another layer or more of them",
                    c.id,
                    times(c.norm / c.weight),
                    c.norm,
                ));
            }
        }
        self.warn_of_s(progress);
        let pairs = || self.requests().iter().zip(self.facts());
        let name = |r: &Fact| format!("{} ({})", r.id, r.subject);
        let failed: Vec<_> = pairs().filter_map(|(r, o)| Some((name(r), o.failed()?))).collect();
        if failed.len() > NAMED {
            progress.warn(&format!(
                "{} of {} were not taken; the report says of each why, and here are {NAMED}",
                failed.len(),
                counted(self.facts().len() as u64, "fact"),
            ));
        }
        for (name, why) in failed.iter().take(NAMED) {
            progress.warn(&format!("{name}: {why}"));
        }
    }

    /// Warns of layers that give little of what they are to give.
    fn warn_of_s(&self, progress: &dyn Progress) {
        let small = || self.changes().iter().filter(|c| c.s.is_some_and(|s| s < SMALL_S));
        let Some(s) = small().filter_map(|c| c.s).reduce(f64::min) else { return };
        let layers: Vec<String> = small().map(|c| c.id.to_string()).collect();
        let [settings, _] = self.hyperparameters();
        let less = LESS.iter().find(|&&name| !settings[name].is_null());
        progress.warn(&format!(
            "{}: s is {s:.2} at the least, so that a layer misses up to {} of what it is to give \
             of a value{}",
            layers.join(", "),
            percent(1.0 / (1.0 + s)),
            less.map_or(String::new(), |name| format!("; a smaller {name} misses less")),
        ));
    }
}
