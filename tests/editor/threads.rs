//! Threads that share a device take turns: each result has the bits it has alone.

use incise::tensor::Device;
use incise::{Editor, TextModel};

use super::{Copy, rome, violin};
use crate::support::twin;

const PROMPTS: [&str; 3] =
    ["Louis Armstrong played the", "Tourists visit the Brandenburg Gate in the city of", "The"];

fn answer(model: &TextModel, prompt: &str) -> String {
    model.generate(prompt, 4).unwrap()
}

fn edited(editor: &Editor) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    editor.plan(&[violin(), rome()]).unwrap().patch().write(file.path()).unwrap();
    std::fs::read(file.path()).unwrap()
}

#[test]
fn one_thread_edits_while_three_generate() {
    let Some(engine) = twin::engine("editor::threads::one_thread_edits") else { return };
    let copy = Copy::new();
    let device = Device::from(engine.clone());
    let editor = copy.editor(&device).method("memit").unwrap().set("v_num_grad_steps", 4).unwrap();
    let model = editor.model();
    let alone = (edited(&editor), PROMPTS.map(|prompt| answer(&model, prompt)));
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
