//! Rounds: what was not taken is planned again.

use incise::edit::state::State;
use incise::model::completion::Completion;
use incise::model::score::score;
use incise::tensor::Device;
use incise::text::Tokenizer;
use incise::{Edit, Editor, Fact};
use serde_json::{Value, json};

use super::{Copy, rome, violin};
use crate::support::cancel::CancelAt;

fn taken(edit: &Edit) -> usize {
    edit.facts().iter().filter(|fact| fact.succeeded()).count()
}

/// An edit, and what was remarked of it.
fn heard(
    copy: &Copy,
    method: &str,
    set: &[(&str, Value)],
    rounds: usize,
    facts: &[Fact],
) -> (Edit, String) {
    let progress = CancelAt::never();
    let remarks = progress.remarks.clone();
    let editor = copy.editor(&Device::Cpu).method(method).unwrap().rounds(rounds);
    let put =
        |editor: Editor, (name, value): &(&str, Value)| editor.set(name, value.clone()).unwrap();
    let editor = set.iter().fold(editor, put);
    let edit = editor.progress(progress).plan(facts).unwrap();
    let said = remarks.lock().unwrap().join("\n");
    (edit, said)
}

/// One step of training takes neither fact, some rounds of one step do; the patch says how many
/// were taken, and each fact's losses are of all of them.
#[test]
fn rounds_take_what_one_does_not() {
    let copy = Copy::new();
    let editor = |rounds: usize| -> Editor {
        let editor = copy.editor(&Device::Cpu).method("ft-m").unwrap().rounds(rounds);
        let set = [("layers", json!([1])), ("num_steps", json!(2)), ("lr", json!(2e-3))];
        set.into_iter().fold(editor, |editor, (name, value)| editor.set(name, value).unwrap())
    };
    let facts = [violin(), rome()];
    let one = editor(1).plan(&facts).unwrap();
    let many = editor(6).plan(&facts).unwrap();
    println!("{} and {} taken", taken(&one), taken(&many));
    assert!(taken(&one) < 2 && taken(&many) > taken(&one));
    assert!(one.patch().unwrap().metadata.notes.get("rounds").is_none());
    let rounds = many.patch().unwrap().metadata.notes["rounds"].as_u64().unwrap();
    assert!((2..=6).contains(&rounds));
    let longest = many.facts().iter().map(|fact| fact.plan.trace.len()).max().unwrap();
    assert!(longest > 2 && longest <= 2 * rounds as usize, "{longest} losses");
}

#[test]
fn rounds_do_not_go_with_what_learns_once() {
    let copy = Copy::new();
    let memit = || copy.editor(&Device::Cpu).method("memit").unwrap().rounds(2);
    let grace = copy.editor(&Device::Cpu).method("grace").unwrap().rounds(2);
    for editor in [memit().state(copy.beside("state")), grace] {
        let error = editor.plan(&[violin()]).err().unwrap();
        assert!(error.to_string().contains("rounds do not go with"), "{error}");
    }
}

/// A round that takes no fact more is dropped: the edit is the one of the rounds before it.
#[test]
fn a_round_that_does_not_help_is_dropped() {
    let copy = Copy::new();
    let set = [("layers", json!([1])), ("num_steps", json!(1)), ("lr", json!(1e-4))];
    let plan = |rounds| heard(&copy, "ft-m", &set, rounds, &[violin(), rome()]);
    let ((one, _), (many, said)) = (plan(1), plan(5));
    assert!(said.contains("round 2: 2 facts again, 2 missing then, so it is dropped"), "{said}");
    assert!(!said.contains("round 3"), "{said}");
    assert_eq!(many.patch().unwrap().metadata.notes["rounds"], 1);
    assert_eq!(many.patch().unwrap().changes, one.patch().unwrap().changes);
    let traces = |edit: &Edit| -> Vec<_> {
        edit.facts().iter().map(|fact| fact.plan.trace.clone()).collect()
    };
    assert_eq!(traces(&many), traces(&one));
}

/// Whether a model with an edit's changes in f32 says its fact.
fn says_unrounded(copy: &Copy, edit: &Edit, fact: &Fact) -> bool {
    let model = copy.editor(&Device::Cpu).model();
    let changes: Vec<_> = edit.changes().iter().map(|change| (change.id, &change.delta)).collect();
    let (model, _) = model.inner().with(&changes);
    let text = Tokenizer::open(copy.dir()).unwrap();
    let target = text.encode_target(&fact.filled(), &fact.target_new, fact.space).unwrap();
    let read = Completion::new(&text.encode(&fact.filled()).unwrap(), &target);
    score(&model, &[read]).unwrap()[0].missed().is_none()
}

/// What rounding to the stored type leaves of a change is what is judged: where the matrices in
/// memory say a fact and those that are written do not, there is another round.
#[test]
fn rounds_judge_what_is_written() {
    let copy = Copy::new();
    for bound in [3.35e-4, 3.37e-4, 3.33e-4, 3.4e-4, 3.3e-4, 3.45e-4] {
        for fact in [violin(), rome()] {
            let plan = |rounds: usize| {
                let set = [
                    ("layers", json!([0, 1, 2, 3, 4, 5])),
                    ("num_steps", json!(20)),
                    ("lr", json!(bound / 4.0)),
                    ("norm_constraint", json!(bound)),
                ];
                heard(&copy, "ft-m", &set, rounds, std::slice::from_ref(&fact))
            };
            let (one, _) = plan(1);
            let unrounded = says_unrounded(&copy, &one, &fact);
            println!("{bound:e}: {unrounded}, written {}", taken(&one));
            if unrounded && taken(&one) == 0 {
                let (_, said) = plan(2);
                assert!(said.contains("round 2: 1 fact again"), "{said}");
                return;
            }
        }
    }
    panic!("rounding never cost a fact");
}

/// Every round has the norm anchor of the first model: given as a number, it is the same edit. The
/// patch says the keys of all rounds.
#[test]
fn rounds_have_one_anchor_and_all_their_keys() {
    let copy = Copy::new();
    let facts = [violin(), rome()];
    let plan = |steps: usize, anchor: Value, rounds: usize| {
        let set =
            [("v_num_grad_steps", json!(steps)), ("v_lr", json!(0.1)), ("norm_anchor", anchor)];
        heard(&copy, "memit", &set, rounds, &facts).0
    };
    let rounds = |edit: &Edit| edit.patch().unwrap().metadata.notes["rounds"].as_u64().unwrap();
    let many = (2..20).map(|steps| (steps, plan(steps, json!(true), 4)));
    let (steps, many) = many.into_iter().find(|(_, many)| rounds(many) > 1).unwrap();
    println!("{steps} steps, {} rounds, {} taken", rounds(&many), taken(&many));

    let file = copy.beside("state");
    let first = copy.editor(&Device::Cpu).method("memit").unwrap().state(&file);
    let first = first.set("v_num_grad_steps", steps as u64).unwrap().set("v_lr", 0.1).unwrap();
    let first = first.set("norm_anchor", true).unwrap().plan(&facts).unwrap();
    first.write(copy.beside("a.patch")).unwrap();
    let fingerprint = &first.patch().unwrap().metadata.model;
    let c = State::read(&file, "memit", fingerprint).unwrap().notes["anchor"].clone();
    let given = plan(steps, c, 4);
    assert_eq!(many.patch().unwrap().changes, given.patch().unwrap().changes);
    let keys = many.patch().unwrap().changes[0].keys.as_ref().expect("keys of all rounds").n;
    assert!(keys > facts.len(), "{keys} keys");
}

/// Rounds are kept as the first is, cut off anywhere they go on to the same bytes, and what was
/// kept is removed once it has served.
#[test]
fn rounds_that_are_cut_off_go_on() {
    let copy = Copy::new();
    let out = copy.beside("a.patch");
    let editor = |progress: CancelAt| {
        let editor = copy.editor(&Device::Cpu).method("ft-m").unwrap().rounds(6).output(&out);
        let set = [("layers", json!([1])), ("num_steps", json!(2)), ("lr", json!(2e-3))];
        let editor =
            set.into_iter().fold(editor, |editor, (name, value)| editor.set(name, value).unwrap());
        editor.progress(progress)
    };
    let facts = [violin(), rome()];
    let trainings = || {
        let files = std::fs::read_dir(copy.beside("a.patch.kept")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("training-")).count()
    };
    let progress = CancelAt::never();
    let remarks = progress.remarks.clone();
    let whole = editor(progress).plan(&facts).unwrap();
    let rounds = trainings();
    assert!(rounds > 1);
    let again = CancelAt::never();
    let before = again.remarks.clone();
    let found = editor(again).plan(&facts).unwrap();
    assert_eq!(found.patch().unwrap().changes, whole.patch().unwrap().changes);
    let known = before.lock().unwrap().iter().filter(|r| r.contains("was trained before")).count();
    assert_eq!((known, trainings()), (rounds, rounds));
    assert!(!remarks.lock().unwrap().iter().any(|remark| remark.contains("was trained before")));
    found.write(&out).unwrap();
    assert!(!copy.beside("a.patch.kept").exists());
}
