//! A program that embeds the library without its command line: changes a fact of the model in the
//! folder it is given, asks the edited model, writes the patch, and applies and undoes it.

use std::path::PathBuf;

use incise::{Editor, Fact};

fn main() -> incise::Result<()> {
    let dir = PathBuf::from(std::env::args_os().nth(1).expect("the folder of a model"));
    let editor = Editor::open(&dir)?
        .statistics(dir.join("stats"))?
        .method("r-rome")?
        .hparams(dir.join("hparams.json"))?
        .contexts(dir.join("contexts.json"))?;
    let edit = editor.plan(&[Fact::new("{} played the", "Louis Armstrong", "violin")])?;
    assert!(edit.facts()[0].succeeded());
    let text = edit.model()?.generate("Louis Armstrong played the", 1)?;
    assert_eq!(text.trim(), "violin");
    let patch = std::env::temp_dir().join("incise-consumer.patch");
    edit.write(&patch)?;
    edit.apply_in_place()?;
    incise::undo(&dir)?;
    Ok(())
}
