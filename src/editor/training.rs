//! Training of what a method edits with.
//!
//! ```text
//! requests ──► samples, in an order of the seed ──► the last are held out ──► the method trains
//! ```
//!
//! Samples that are held out choose the best parameters and end the training; they are at most
//! `val_steps`, and a tenth of all, and about other subjects.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Editor;
use super::parameters::parameters;
use super::settings::digest;
use crate::base::file::{make_folder, read_file};
use crate::base::units::counted;
use crate::base::{Error, Remedy, Result, Rng, Stage, catch_device_error};
use crate::data::request::{self, MAX_BYTES};
use crate::edit::method::{TrainContext, not_trained};
use crate::edit::train_params::VAL_STEPS;
use crate::store::Fingerprint;
use crate::store::place::{check_place, check_replaced};
use crate::train::kept::KeptParameters;
use crate::train::{Sample, TrainedEditor};

/// Where a training is kept in its folder.
const PARTIAL: &str = "partial.safetensors";

/// One sample of so many is held out, at most.
const HELD_OUT: usize = 10;

/// What a training came to.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingSummary {
    /// The folder of the trained editor.
    pub folder: PathBuf,
    /// Samples that were trained on, and held out.
    pub samples: [usize; 2],
    /// What the method says of it, as in `training.json`.
    pub record: Value,
}

impl Editor {
    /// Trains what the method edits with, on the requests of files, in any form that
    /// [`request`] knows: their paraphrases are what the edited model should say too, and their
    /// neighbourhood and locality what should stay. It is written into a folder; a call that was
    /// cut off goes on.
    ///
    /// # Errors
    ///
    /// A method that is not trained; files that cannot be read; too few requests, or one without
    /// anything that should stay; a loss that is not finite; cancellation; a device out of memory.
    pub fn train<P: AsRef<Path>>(
        &self,
        data: &[P],
        dir: impl AsRef<Path>,
    ) -> Result<TrainingSummary> {
        let (dir, settings, opened) = (dir.as_ref(), &self.settings, &self.opened);
        opened.checkpoint.unchanged()?;
        let method = settings.chosen()?;
        if !method.is_trained() {
            return Err(not_trained(method.about().name));
        }
        let mut inputs: Vec<&Path> = data.iter().map(AsRef::as_ref).collect();
        inputs.push(&opened.dir);
        inputs.extend(settings.inputs());
        let (hparams, params) = parameters(opened, settings, method, None)?;
        let files: Vec<Value> =
            data.iter().map(|file| digest(file.as_ref(), MAX_BYTES)).collect::<Result<_>>()?;
        let (samples, held_out) = self.samples(data, params.count_if_given(&VAL_STEPS))?;
        make_folder(dir)?;
        check_outputs(dir, &inputs)?;
        let progress = &*settings.progress;
        progress.remark(&format!(
            "{} to train on, {} held out",
            counted(samples.len() as u64, "sample"),
            held_out.len()
        ));
        let weights = self.weights()?;
        let (version, compute) = (env!("CARGO_PKG_VERSION"), opened.model.compute.name());
        let hyperparameters = hparams.to_json();
        let numbers = json!([hyperparameters, settings.seed]).to_string();
        let named = [method.about().name, version, &weights, &compute, &numbers];
        let key = key(&named, samples.iter().chain(&held_out));
        if let Some(record) = trained_before(dir, &key)? {
            progress.remark("was trained before, by the same command");
            let sizes = [samples.len(), held_out.len()];
            return Ok(TrainingSummary { folder: dir.to_owned(), samples: sizes, record });
        }
        let mut kept = KeptParameters::at(dir.join(PARTIAL), key.clone());
        let train = || {
            let context = TrainContext {
                model: &opened.model,
                samples: &samples,
                held_out: &held_out,
                tokenizer: &opened.tokenizer,
                kept: Some(&mut kept),
                seed: settings.seed,
                progress,
            };
            catch_device_error(|| method.train(context, &params))
        };
        let (trained, mut record) = settings.run(train)?;
        let trained = TrainedEditor {
            method: method.about().name.to_owned(),
            model: opened.fingerprint.clone(),
            hyperparameters: hyperparameters.as_object().cloned().unwrap_or_default(),
            training: key,
            ..trained
        };
        record["data"] = json!(files);
        record["samples"] = json!({"trained_on": samples.len(), "held_out": held_out.len()});
        record["seed"] = json!(settings.seed);
        record["weights"] = json!(weights);
        record["computed_on"] = json!(compute);
        record["seconds"] = json!(kept.seconds());
        trained.write(dir, &record)?;
        kept.forget();
        let sizes = [samples.len(), held_out.len()];
        Ok(TrainingSummary { folder: dir.to_owned(), samples: sizes, record })
    }

    /// The samples to train on, and those that are held out.
    fn samples<P: AsRef<Path>>(
        &self,
        data: &[P],
        most: Option<usize>,
    ) -> Result<(Vec<Sample>, Vec<Sample>)> {
        let (opened, settings) = (&self.opened, &self.settings);
        let space = settings.no_space.then_some(false);
        let (mut samples, mut subjects) = (Vec::new(), Vec::new());
        for file in data {
            for fact in request::read(file)? {
                settings.progress.at(Stage::Open, samples.len() as u64, samples.len() as u64);
                samples.push(Sample::new(&opened.model, &opened.tokenizer, &fact, space)?);
                subjects.push(if fact.subject.is_empty() { fact.id } else { fact.subject });
            }
        }
        let own = samples.iter().filter(|sample| sample.outer[0] == sample.edit).count();
        if own > 0 {
            let of = counted(own as u64, "request");
            settings.progress.warn(&format!(
                "{of} without paraphrases: the edit's own prompt takes their place"
            ));
        }
        let held = (samples.len() / HELD_OUT).min(most.unwrap_or(usize::MAX));
        if held == 0 {
            let what = format!("{} requests, of which a tenth is held out", samples.len());
            return Err(Error::refused(what, Remedy::from("give at least ten")));
        }
        let order = Rng::new(settings.seed, "held out").order(samples.len());
        let Some(out) = held_out(&order, &subjects, held) else {
            let what = "all requests are about one subject, and those held out are about others";
            return Err(Error::refused(what, "give requests about more subjects"));
        };
        let side = |is_out: bool| {
            let own = order.iter().filter(|i| out.contains(i) == is_out);
            own.map(|&i| samples[i].clone()).collect::<Vec<Sample>>()
        };
        Ok((side(false), side(true)))
    }
}

/// Names all that a training depends on.
fn key<'a>(named: &[&str], samples: impl Iterator<Item = &'a Sample>) -> String {
    let mut key = Fingerprint::default();
    named.iter().for_each(|name| key.field(name.as_bytes()));
    samples.for_each(|sample| sample.digest(&mut key));
    key.hex()
}

/// Refuses a folder in which an output would take the place of what is read, or of a file of
/// another kind.
fn check_outputs(dir: &Path, inputs: &[&Path]) -> Result<()> {
    let (file, record) = (TrainedEditor::file(dir), TrainedEditor::record(dir));
    let partial = dir.join(PARTIAL);
    [&file, &record, &partial].into_iter().try_for_each(|output| check_place(output, inputs))?;
    let is_editor = TrainedEditor::read(dir).is_ok();
    check_replaced(&file, is_editor, "trained editor")?;
    check_replaced(&record, is_editor, "record of a trained editor's")?;
    KeptParameters::at(partial, String::new()).check()
}

/// The record of an editor that the training of `key` left in a folder; another training's editor
/// is refused.
fn trained_before(dir: &Path, key: &str) -> Result<Option<Value>> {
    let (file, record) = (TrainedEditor::file(dir), TrainedEditor::record(dir));
    if !file.exists() || !record.exists() {
        return Ok(None);
    }
    if TrainedEditor::read(dir)?.training != key {
        let what = "is an editor of other data, settings or weights";
        let remedy = "remove it, or name another output folder";
        return Err(Error::input(&file, "training", what, remedy));
    }
    let record = read_file(&record, MAX_BYTES)?;
    Ok(serde_json::from_slice(&record).ok())
}

/// Which samples are held out, at most so many, from the end of an order on: all that are about a
/// subject or none, for what is learnt of one tells of the others. Where each subject has more
/// samples, that with the fewest; nothing where there is no other subject.
fn held_out(order: &[usize], subjects: &[String], most: usize) -> Option<BTreeSet<usize>> {
    let mut of: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    order.iter().for_each(|&i| of.entry(&subjects[i]).or_default().push(i));
    let mut out = BTreeSet::new();
    for &i in order.iter().rev() {
        let own = &of[&*subjects[i]];
        if !out.contains(&i) && out.len() + own.len() <= most {
            out.extend(own);
        }
    }
    if out.is_empty() && of.len() > 1 {
        out.extend(of.values().min_by_key(|own| own.len())?);
    }
    (!out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::held_out;

    #[test]
    fn subjects_are_held_out_whole() {
        let subjects: Vec<String> = "abcabcdeef".chars().map(String::from).collect();
        let of = |order: &[usize], most| held_out(order, &subjects, most).unwrap();
        let order: Vec<usize> = (0..10).collect();
        assert_eq!(of(&order, 1), [9].into());
        assert_eq!(of(&order, 2), [6, 9].into(), "a pair would be one too many");
        assert_eq!(of(&order, 3), [7, 8, 9].into());
        assert_eq!(of(&order[..6], 1), [0, 3].into(), "the first of the smallest");
        assert_eq!(held_out(&[0, 3], &subjects, 1), None);
    }
}
