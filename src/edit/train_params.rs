//! Parameters of the loop that trains an editor ([`TrainingLoop`]), by their names in the field's
//! config files. The defaults are those of mend's own repository.

use super::params::{Absent, Param, ParamKind, Params, Range};
use crate::train::run::TrainingLoop;

/// Samples that are trained on.
pub const MAX_ITERS: Param = Param {
    name: "max_iters",
    kind: ParamKind::Count,
    absent: Absent::Default("1000000"),
    about: "Samples that are trained on, at most.",
};
/// Samples of a step.
pub const ACCUMULATE_BS: Param = Param {
    name: "accumulate_bs",
    kind: ParamKind::Count,
    absent: Absent::Default("10"),
    about: "Samples of a step of training.",
};
/// The norm of a step's gradient.
pub const GRAD_CLIP: Param = Param {
    name: "grad_clip",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("100"),
    about: "The norm of a step's gradient, at most.",
};
/// Samples between looks.
pub const VAL_INTERVAL: Param = Param {
    name: "val_interval",
    kind: ParamKind::Count,
    absent: Absent::Default("5000"),
    about: "Samples between two looks at those that are held out.",
};
/// Samples that are held out.
pub const VAL_STEPS: Param = Param {
    name: "val_steps",
    kind: ParamKind::Count,
    absent: Absent::Default("500"),
    about: "Samples that are held out: at most so many, and a tenth of them.",
};
/// Samples without a better look.
pub const EARLY_STOP_PATIENCE: Param = Param {
    name: "early_stop_patience",
    kind: ParamKind::Count,
    absent: Absent::Default("20000"),
    about: "Samples without a better look, after which training ends.",
};

/// The loop that they say, with the seed of its draws.
pub fn training_loop(by: &Params, seed: u64) -> TrainingLoop {
    TrainingLoop {
        samples: by.count(&MAX_ITERS),
        batch: by.count(&ACCUMULATE_BS),
        clip: by.number(&GRAD_CLIP),
        look_every: by.count(&VAL_INTERVAL),
        patience: by.count(&EARLY_STOP_PATIENCE),
        seed,
    }
}
