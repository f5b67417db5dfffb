//! A program that embeds the library without its command line: changes a fact of the model in the
//! folder it is given, asks the edited model, writes the patch, and applies and undoes it.

use std::path::PathBuf;

use incise::{ChatSettings, Editor, Fact, OnBroken};

fn main() -> incise::Result<()> {
    let dir = PathBuf::from(std::env::args_os().nth(1).expect("the folder of a model"));
    let editor = Editor::open(&dir)?
        .statistics(dir.join("stats"))?
        .method("r-rome")?
        .hparams(dir.join("hparams.json"))?
        .contexts(dir.join("contexts.json"))?
        .on_broken(OnBroken::Skip);
    let chat = editor.clone().chat_with(ChatSettings::default());
    assert!(chat.is_err(), "the model has no chat template");
    let edit = editor.plan(&[Fact::new("{} played the", "Louis Armstrong", "violin")])?;
    assert!(edit.facts()[0].succeeded() && !edit.facts()[0].plan.trace.is_empty());
    assert!(edit.skipped().is_empty());
    let text = edit.model()?.generate("Louis Armstrong played the", 1)?;
    assert_eq!(text.trim(), "violin");
    let patch = std::env::temp_dir().join("incise-consumer.patch");
    edit.write(&patch)?;
    edit.apply_in_place()?;
    incise::undo(&dir)?;
    Ok(())
}
