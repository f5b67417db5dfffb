//! Which kernels are asked, and what they are asked: a file and its types at a time.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::trial::{Verdict, Wrong};
use super::{
    act, attention, cholesky, codebook, gram, linear, loss, norm, probe, rows, sample, search,
    update, weight_gradient,
};
use crate::base::Error;
use crate::gpu::Engine;
use crate::gpu::kernels::FILES;
use crate::gpu::launch::Elem;

/// What a file's kernels, compiled for some types, should give.
#[derive(Clone, Copy)]
pub struct KnownAnswer {
    /// `norm`.
    pub file: &'static str,
    /// What `elem` and `weight` stand for; the second may be empty.
    pub types: (&'static str, &'static str),
    run: Run,
}

/// Runs the kernels for `elem` and `weight`.
type Run = fn(&Engine, [Elem; 2]) -> Verdict;

/// The trials of each file. Each launches kernels of its file alone, for the types it is given.
const TRIALS: &[(&str, Run)] = &[
    ("act", act::all),
    ("adam", search::step),
    ("attention", attention::long),
    ("attention_mma", attention::on_tensor_cores),
    ("attention_row", attention::one),
    ("attention_short", attention::short),
    ("cholesky", cholesky::all),
    ("codebook", codebook::all),
    ("embed", rows::embedded),
    ("gram_mma", gram::moments),
    ("linear_mma", linear::many),
    ("linear_row", linear::few),
    ("linear_split", linear::split),
    ("loss", loss::all),
    ("norm", norm::all),
    ("probe", probe::all),
    ("rope", rows::turns),
    ("rows", rows::all),
    ("sample", sample::all),
    ("search_step", search::searched),
    ("update", update::all),
    ("weight_gradient", weight_gradient::all),
];

/// Every file of kernels, for every pair of types it is compiled for.
pub fn known_answers() -> impl Iterator<Item = KnownAnswer> {
    FILES.iter().flat_map(|file| {
        let found = TRIALS.iter().find(|(name, _)| *name == file.name);
        let &(file_name, run) = found.unwrap_or_else(|| panic!("no trial of {}", file.name));
        file.variants.iter().map(move |&types| KnownAnswer { file: file_name, types, run })
    })
}

/// A kernel that gives something else than it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `norm`.
    pub file: &'static str,
    /// What `elem` and `weight` stand for.
    pub types: (&'static str, &'static str),
    /// What it did.
    pub wrong: Wrong,
    /// Whether the device failed: what is asked of it from then on fails too.
    pub failed: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Fault { file, types: (elem, weight), wrong, failed } = self;
        let Wrong { kernel, trial, what } = wrong;
        let types = [*elem, *weight].join(" ");
        let types = types.trim_end();
        if *failed {
            // Which kernel it was, if any, the device says.
            return write!(f, "{what}, asked about kernels/{file}.cu {types}");
        }
        let kernel = if kernel.is_empty() { String::new() } else { format!(" {kernel}") };
        let trial = if trial.is_empty() { String::new() } else { format!(", {trial}") };
        write!(f, "kernels/{file}.cu{kernel} {types}{trial}: {what}")
    }
}

impl Fault {
    /// Instruments that are worse than they should be.
    pub fn of_instruments(wrong: Wrong) -> Fault {
        Fault { file: "probe", types: ("bf16", ""), wrong, failed: false }
    }

    /// A device that fails.
    pub fn of_device(file: &'static str, types: (&'static str, &'static str), e: &Error) -> Fault {
        let wrong = Wrong { kernel: "", trial: String::new(), what: device_words(e) };
        Fault { file, types, wrong, failed: true }
    }
}

impl KnownAnswer {
    /// Asks an engine. A launch that fails, and a process in a card's place that dies, is a fault.
    pub fn ask(&self, engine: &Engine) -> Option<Fault> {
        let (elem, weight) = self.types;
        let types = [elem, if weight.is_empty() { elem } else { weight }].map(Elem::named);
        let ran = catch_unwind(AssertUnwindSafe(|| (self.run)(engine, types)));
        let (wrong, failed) = match ran {
            Ok(Ok(())) => return None,
            Ok(Err(wrong)) => (wrong, false),
            Err(panic) => {
                let what = said(&*panic);
                (Wrong { kernel: "", trial: String::new(), what }, true)
            }
        };
        Some(Fault { file: self.file, types: self.types, wrong, failed })
    }
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = || panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let error = || panic.downcast_ref::<Error>().map(device_words);
    panic.downcast_ref::<String>().cloned().or_else(text).or_else(error).unwrap_or_default()
}

/// What happened, without what to do about it: that is another thing where a device is asked.
fn device_words(e: &Error) -> String {
    if let Error::Device { what, .. } = e { what.clone() } else { e.line() }
}
