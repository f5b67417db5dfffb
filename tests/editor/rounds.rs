//! Rounds: what was not taken is planned again.

use incise::tensor::Device;
use incise::{Edit, Editor};
use serde_json::json;

use super::{Copy, rome, violin};

fn taken(edit: &Edit) -> usize {
    edit.facts().iter().filter(|fact| fact.succeeded()).count()
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
