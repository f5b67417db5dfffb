//! What a method edits by: its hyperparameters, from wherever they are, and what was trained.

use super::opened::Opened;
use super::settings::Settings;
use crate::base::{Error, Operation, Progress, Remedy, Result};
use crate::edit::hparams::HparamSet;
use crate::edit::method::{Batching, Method};
use crate::edit::params::Params;
use crate::train::TrainedEditor;

/// The trained editor that a method edits with, if it does.
///
/// # Errors
///
/// None, or one of another method or model; one for a method that edits without.
pub(super) fn trained_editor(
    opened: &Opened,
    settings: &Settings,
    method: &dyn Method,
) -> Result<Option<TrainedEditor>> {
    let name = method.about().name;
    let Some(dir) = &settings.trained else {
        if !method.is_trained() {
            return Ok(None);
        }
        let what = format!("{name} edits with a trained editor, and none is named");
        let remedy = Remedy::from("train one for this model and name its folder");
        let remedy = remedy.option("editor", None).operation(Operation::Train);
        return Err(Error::refused(what, remedy));
    };
    if !method.is_trained() {
        return Err(does_not_apply("editor", method));
    }
    let trained = TrainedEditor::read(dir)?;
    let wanted =
        [("method", &trained.method[..], name), ("model", &trained.model, &opened.fingerprint)];
    let other = wanted.into_iter().find(|(_, found, want)| found != want);
    if let Some((field, found, want)) = other {
        let what = format!("is {found}, not {want}");
        let remedy = Remedy::from("name an editor that was trained by this method for this model");
        let remedy = remedy.operation(Operation::Train);
        return Err(Error::input(TrainedEditor::file(dir), field, what, remedy));
    }
    if settings.hparams.is_some() || !settings.set.is_empty() {
        let what =
            format!("the hyperparameters of {name} are those that its editor was trained with");
        return Err(Error::refused(what, "leave them out, or train another editor with these"));
    }
    Ok(Some(trained))
}

/// The hyperparameters of an edit: those that a trained editor has, or else preset, file and what
/// was set, in this order.
pub(super) fn parameters(
    opened: &Opened,
    settings: &Settings,
    method: &dyn Method,
    trained: Option<&TrainedEditor>,
) -> Result<(HparamSet, Params)> {
    let mut hparams = HparamSet::choose(settings.hparams.as_deref(), method, &opened.model)?;
    for (name, value, source) in &settings.set {
        hparams.put(name, value.clone(), source);
    }
    if let Some(editor) = trained {
        let source = editor.folder.display().to_string();
        for (name, value) in &editor.hyperparameters {
            hparams.put(name, value.clone(), &source);
        }
    }
    hparams.fill(method);
    say_settings(&*settings.progress, opened, method, &hparams);
    let params = hparams.resolve(method, &opened.model)?;
    Ok((hparams, params))
}

/// Warns of what does not apply or fit, and says which hyperparameters were chosen.
fn say_settings(
    progress: &dyn Progress,
    opened: &Opened,
    method: &dyn Method,
    hparams: &HparamSet,
) {
    if let Some(engine) = opened.model.compute.engine() {
        engine.warn(progress);
    }
    let name = method.about().name;
    for unknown in hparams.unknown(method) {
        progress.warn(&format!("hyperparameter `{unknown}` does not apply to {name}"));
    }
    let contradictions = hparams.contradictions(method, &opened.model);
    for what in contradictions.iter().chain(&opened.tokenizer.difference) {
        progress.warn(what);
    }
    let summary = hparams.summary(method);
    if !summary.is_empty() {
        progress.remark(&format!("hyperparameters: {summary}"));
    }
}

/// That a setting does not apply to a method, and why.
pub(super) fn does_not_apply(setting: &str, method: &dyn Method) -> Error {
    let name = method.about().name;
    let how = match method.batching() {
        Batching::Epochs => "trains on all facts together, and searches no values",
        Batching::Together => "carries nothing on",
        Batching::Turns => "takes n_edits facts a turn, and searches no values",
        _ if setting == "editor" => "edits without one",
        Batching::OneByOne if method.makes_memory() => {
            "keeps facts beside the weights, one after another, and searches no value"
        }
        Batching::OneByOne => "edits one fact at a time",
    };
    let what = format!("{setting} does not apply to {name}, which {how}");
    let remedy = Remedy::from("leave it out, or edit with memit");
    Error::refused(what, remedy.option("method", Some("memit")))
}
