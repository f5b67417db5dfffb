//! What must not be lost: bytes, states, what was found, and what a caller is told.

use std::collections::BTreeMap;
use std::fs;

use incise::edit::hparams::HparamSet;
use incise::edit::methods::METHODS;
use incise::edit::params::Absent;
use incise::model::MatrixId;
use incise::store::write::{self, Item};
use incise::store::{Checkpoint, Patch};
use incise::tensor::Device;
use incise::{Edit, Editor, Fact, Prepared, TextModel};
use serde_json::json;

use super::{Copy, rome, violin};

#[test]
fn everything_of_the_front_door_can_go_to_another_thread() {
    fn all<T: Send + Sync + 'static>() {}
    all::<Editor>();
    all::<Prepared>();
    all::<Edit>();
    all::<TextModel>();
    all::<incise::Error>();
}

/// Plan, look, write, apply, undo: bytes change only where that is said, and come back.
#[test]
fn a_plan_touches_nothing_and_undo_brings_every_byte_back() {
    let copy = Copy::new();
    let before = copy.weights();
    let editor = copy.editor(&Device::Cpu).method("r-rome").unwrap();
    let edit = editor.plan(&[violin()]).unwrap();
    assert!(edit.facts()[0].succeeded());
    let ask = |model: TextModel| model.generate("Louis Armstrong played the", 1).unwrap();
    assert_eq!(ask(edit.model().unwrap()).trim(), "violin");
    assert_eq!(ask(editor.model()).trim(), "trumpet", "the editor's model is as it was");
    assert_eq!(copy.weights(), before);
    assert!(!copy.dir().join(".incise").exists());

    let patch = copy.beside("a.patch");
    edit.write(&patch).unwrap();
    assert_eq!(Patch::read(&patch).unwrap(), *edit.patch().unwrap());
    assert!(copy.beside("a.patch.report.jsonl").exists());
    // Tensors replace an older file of the same ones, and nothing else.
    for taken in [copy.dir().join("model.safetensors"), patch.clone()] {
        let error = edit.export_tensors(&taken).err().unwrap();
        assert_eq!(error.field(), Some("output"), "{error}");
    }
    for _ in 0..2 {
        edit.export_tensors(copy.beside("tensors.safetensors")).unwrap();
    }
    assert_eq!(copy.weights(), before);
    edit.apply_in_place().unwrap();
    assert_ne!(copy.weights(), before);
    let error = copy.editor(&Device::Cpu).threads(1 << 30).err().unwrap().to_string();
    assert!(error.contains("threads: there are at most 1024"), "{error}");
    let error = editor.plan(&[rome()]).err().unwrap().to_string();
    assert!(error.contains("model.safetensors"), "an editor of weights that are gone: {error}");
    assert_eq!(incise::log(copy.dir()).unwrap().len(), 1);
    incise::undo(copy.dir()).unwrap();
    assert_eq!(copy.weights(), before);
}

/// Before any work: a tensor that two files hold is not edited, nor is the model merely asked.
#[test]
fn a_model_with_a_tensor_in_two_files_is_not_edited() {
    let copy = Copy::new();
    let model = copy.editor(&Device::Cpu).model();
    let tensor = model.inner().matrix(MatrixId::down(0)).stored.tensor.clone();
    let checkpoint = Checkpoint::open(&copy.dir()).unwrap();
    let stored = checkpoint.tensor(&tensor).unwrap().unwrap();
    let item = Item { name: tensor.clone(), dtype: stored.dtype.into(), shape: stored.shape };
    let second = copy.dir().join("b.safetensors");
    let bytes = stored.bytes;
    write::write(&second, &BTreeMap::new(), &[item], &mut |_, out| out.write_all(&bytes)).unwrap();
    let map: BTreeMap<&str, &str> = checkpoint
        .names()
        .map(|name| (name, if name == tensor { "b.safetensors" } else { "a.safetensors" }))
        .collect();
    let index = json!({"weight_map": map}).to_string();
    fs::write(copy.dir().join("model.safetensors.index.json"), index).unwrap();
    fs::rename(copy.dir().join("model.safetensors"), copy.dir().join("a.safetensors")).unwrap();
    let editor = copy.editor(&Device::Cpu).method("r-rome").unwrap();
    let error = editor.prepare(&[violin()]).err().unwrap().to_string();
    assert!(error.contains(&format!("a.safetensors: {tensor}: is stored in two files")), "{error}");
    editor.model().generate("Louis Armstrong played the", 1).unwrap();
    // What lives beside the weights changes none of them.
    let editor = copy.editor(&Device::Cpu).method("grace").unwrap();
    editor.set("layers", json!([0])).unwrap().prepare(&[violin()]).unwrap();
}

/// However many threads there are.
#[test]
fn an_edit_does_not_depend_on_threads() {
    let copy = Copy::new();
    let editor = copy.editor(&Device::Cpu).method("r-rome").unwrap();
    let all = editor.plan(&[violin()]).unwrap();
    let one = editor.threads(1).unwrap().plan(&[violin()]).unwrap();
    assert_eq!(one.patch().unwrap(), all.patch().unwrap());
}

/// Edits of one kind, by every method, take both facts of the model that ships; those that are
/// trained before are in `training.rs`.
#[test]
fn every_method_goes_through_the_same_door() {
    let copy = Copy::new();
    for method in METHODS.into_iter().filter(|method| !method.is_trained()) {
        let name = method.about().name;
        let edit = copy.by(name).plan(&[violin(), rome()]).unwrap();
        let took: Vec<_> = edit.facts().iter().map(|f| (f.failed(), f.p_target)).collect();
        println!("{name}: {took:?}");
        assert_eq!(edit.facts().len(), 2, "{name}");
        match edit.patch() {
            Ok(patch) => assert_eq!(patch.metadata.method, name),
            Err(e) => assert!(method.makes_memory(), "{name}: {e}"),
        }
    }
}

/// A state goes forward once, with the first thing an edit leaves behind.
#[test]
fn a_state_goes_with_what_is_left_behind() {
    let copy = Copy::new();
    let file = copy.beside("memit.state");
    let editor = copy.editor(&Device::Cpu).method("memit").unwrap().state(&file);
    let edit = editor.plan(&[violin()]).unwrap();
    assert!(!file.exists(), "a plan writes no state");
    edit.apply_in_place().unwrap();
    let state = fs::read(&file).unwrap();
    edit.write(copy.beside("a.patch")).unwrap();
    assert_eq!(fs::read(&file).unwrap(), state, "it went forward once");

    // The same request, whatever its id, is refused; another one goes on.
    let again = || copy.editor(&Device::Cpu).method("memit").unwrap().state(&file);
    let error = again().plan(&[violin()]).err().unwrap().to_string();
    assert!(error.contains("already"), "{error}");
    let next = again().plan(&[rome()]).unwrap();
    // Two edits of one state: what the slower one would write is refused.
    let slower = again().plan(&[rome()]).unwrap();
    next.write(copy.beside("b.patch")).unwrap();
    let error = slower.write(copy.beside("c.patch")).err().unwrap().to_string();
    assert!(error.contains("another run wrote it meanwhile"), "{error}");
    assert!(!copy.beside("c.patch").exists());
}

#[test]
fn settings_that_do_not_apply_are_refused() {
    let copy = Copy::new();
    let error = copy.editor(&Device::Cpu).plan(&[violin()]).err().unwrap().to_string();
    assert!(error.contains("no method") && error.contains("memit"), "{error}");
    let rome = || copy.editor(&Device::Cpu).method("rome").unwrap();
    for (editor, what) in [
        (rome().sequential(2), "sequential"),
        (rome().memory(1 << 30), "memory"),
        (rome().state(copy.beside("state")), "state"),
        (rome().shard("0/2".parse().unwrap()), "shard"),
        (rome().values([copy.beside("values")]), "values"),
    ] {
        let error = editor.plan(&[violin()]).err().unwrap().to_string();
        let want = format!("{what} does not apply to rome");
        assert!(error.contains(&want), "{error}");
    }
    let tuned = || copy.editor(&Device::Cpu).method("ft-m").unwrap();
    for (editor, what) in [
        (tuned().state(copy.beside("state")), "state"),
        (tuned().shard("0/2".parse().unwrap()), "shard"),
        (tuned().values([copy.beside("values")]), "values"),
    ] {
        let error = editor.plan(&[violin()]).err().unwrap().to_string();
        let want = format!("{what} does not apply to ft-m, which trains on all facts together");
        assert!(error.contains(&want), "{error}");
    }
    assert!(tuned().memory(1 << 20).plan(&[violin()]).is_ok());
    let added = copy.editor(&Device::Cpu).method("calinet").unwrap().sequential(2);
    let error = added.plan(&[violin()]).err().unwrap().to_string();
    assert!(error.contains("sequential does not apply to calinet, which trains on all"), "{error}");
    assert!(copy.editor(&Device::Cpu).method("no-such").is_err());
    assert!(copy.editor(&Device::Cpu).fast_search().is_err());
    assert!(copy.editor(&Device::Cpu).device("cuda:7").is_err());
    let memit = copy.editor(&Device::Cpu).method("memit").unwrap();
    let broken = Fact::new("no place for it", "Louis Armstrong", "violin");
    let error = memit.plan(&[broken]).err().unwrap().to_string();
    assert!(error.contains("prompt"), "{error}");
    assert!(memit.clone().without(["9"]).plan(&[violin()]).is_err());
    assert!(memit.plan(&[]).is_err());
    assert!(memit.clone().values([copy.beside("values")]).plan(&[violin()]).is_err());
    // Places: of the model, of another output, of what a stranger left.
    let stranger = copy.beside("stranger");
    fs::write(&stranger, "mine").unwrap();
    let twice = copy.beside("a.patch");
    for editor in [
        memit.clone().output(copy.dir().join("model.safetensors")),
        memit.clone().output(&stranger),
        memit.clone().output(&twice).state(&twice),
        memit.clone().state(copy.dir().join("config.json")),
        memit.clone().output(&twice).cache(&twice),
    ] {
        assert!(editor.plan(&[violin()]).is_err());
    }
    let requests = copy.beside("b.patch.report.jsonl");
    let fact =
        r#"{"prompt": "{} played the", "subject": "Louis Armstrong", "target_new": "violin"}"#;
    fs::write(&requests, fact).unwrap();
    let over = memit.clone().output(copy.beside("b.patch")).prepare_file(&requests);
    assert!(over.is_err(), "a report in the place of the requests");
    let edit = memit.prepare_file(&requests).unwrap().plan().unwrap();
    assert!(edit.write(copy.beside("b.patch")).is_err());
    assert!(edit.write(&stranger).is_err());
    assert_eq!(fs::read_to_string(&requests).unwrap(), fact);
    assert_eq!(fs::read_to_string(&stranger).unwrap(), "mine");
}

/// Defaults are values of their kind; names occur once in a method.
#[test]
fn parameters_are_sound() {
    let copy = Copy::new();
    let editor = copy.editor(&Device::Cpu);
    for method in METHODS {
        let about = method.about();
        assert!(about.summary.ends_with('.') && about.paper.contains("arXiv:"), "{}", about.name);
        let mut set = HparamSet::default();
        let mut names = Vec::new();
        for param in method.params() {
            assert!(param.about.ends_with('.'), "{}", param.name);
            names.push(param.name);
            if param.absent == Absent::Needed {
                let value = if param.name == "layers" { "[0]" } else { "1" };
                set.put(param.name, serde_json::from_str(value).unwrap(), "a test");
            }
        }
        let resolved = set.resolve(method, editor.model().inner());
        assert!(resolved.is_ok(), "{}: {:?}", about.name, resolved.err());
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), method.params().len(), "{}: a name twice", about.name);
    }
}
