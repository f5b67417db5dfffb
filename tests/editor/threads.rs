//! Threads that share a device take turns: each result has the bits it has alone.

use incise::{Device, Editor, Fact, TextModel};

use crate::support::{root, twin};

const PROMPTS: [&str; 3] = ["Big Ben is in", "The sea", "Nothing is in the city of"];

fn answer(model: &TextModel, prompt: &str) -> String {
    model.generate(prompt, 4).unwrap()
}

fn edited(editor: &Editor) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let fact = Fact::new("{} is in", "Big Ben", "Paris");
    editor.plan(&[fact]).unwrap().patch().unwrap().write(file.path()).unwrap();
    std::fs::read(file.path()).unwrap()
}

#[test]
fn one_thread_edits_while_three_generate() {
    let Some(engine) = twin::fastest("editor::threads::one_thread_edits") else { return };
    let device = Device::from(engine.clone());
    let mut editor =
        Editor::open_on(root().join("tests/golden/gpt2"), &device, &incise::base::Quiet)
            .and_then(|editor| editor.method("r-rome"))
            .unwrap();
    for (name, value) in [
        ("layers", "[1]"),
        ("v_num_grad_steps", "3"),
        ("v_lr", "0.5"),
        ("v_weight_decay", "0.5"),
        ("clamp_norm_factor", "4"),
        ("kl_factor", "0.0625"),
        ("mom2_adjustment", "false"),
    ] {
        let value: serde_json::Value = serde_json::from_str(value).unwrap();
        editor = editor.set(name, value).unwrap();
    }
    // The check on the CPU beside the search takes turns with it on the only thread there is.
    let one = editor.clone().threads(1).unwrap();
    let model = editor.model();
    let alone = (edited(&editor), PROMPTS.map(|prompt| answer(&model, prompt)));
    assert!(edited(&one) == alone.0, "on one thread");
    let before = engine.replays();
    let together = std::thread::scope(|scope| {
        let editing = scope.spawn(|| edited(&editor));
        let answers = PROMPTS.map(|prompt| {
            let model = model.clone();
            scope.spawn(move || answer(&model, prompt))
        });
        (editing.join().unwrap(), answers.map(|a| a.join().unwrap()))
    });
    assert_eq!(together.0.len(), alone.0.len());
    assert!(together.0 == alone.0, "the patch has other bytes");
    assert_eq!(together.1, alone.1);
    assert!(engine.replays() > before, "steps were replayed meanwhile");
}
