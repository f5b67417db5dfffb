//! The front door: what a program that embeds incise may rely on.

mod docs;
mod kept;
mod options;
mod rounds;
mod rules;
mod stops;
mod text;
mod threads;
mod training;
mod tune;
mod verdict;

use std::fs;
use std::path::PathBuf;

use incise::data::Contexts;
use incise::tensor::Device;
use incise::{Editor, Fact};
use tempfile::TempDir;

use crate::support::root;

/// A copy of the model that ships with the program, which a test may change.
pub struct Copy(TempDir);

impl Copy {
    pub fn new() -> Copy {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir_all(model.join("stats")).unwrap();
        for file in [
            "config.json",
            "contexts.json",
            "hparams.json",
            "model.safetensors",
            "stats/layer-0.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            fs::copy(root().join("demo").join(file), model.join(file)).unwrap();
        }
        Copy(folder)
    }

    pub fn dir(&self) -> PathBuf {
        self.0.path().join("model")
    }

    /// A place beside the model.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An editor with everything but a method.
    pub fn editor(&self, device: &Device) -> Editor {
        let dir = self.dir();
        let contexts = Contexts::read(dir.join("contexts.json")).unwrap();
        assert!(contexts.flat().len() > 1);
        Editor::open_on(&dir, device, &incise::base::Quiet)
            .and_then(|editor| editor.statistics(dir.join("stats")))
            .and_then(|editor| editor.hparams(dir.join("hparams.json")))
            .and_then(|editor| editor.contexts(dir.join("contexts.json")))
            .and_then(|editor| editor.set("mom2_update_weight", 1.0))
            .unwrap()
    }

    /// An editor by a method, with what it needs beside.
    pub fn by(&self, method: &str) -> Editor {
        let editor = self.editor(&Device::Cpu).method(method).unwrap();
        match method {
            "alphaedit" | "betaedit" => editor.set("L2", 1.0).unwrap(),
            "ike" => editor.set("use_icl_examples", false).unwrap(),
            _ => editor,
        }
    }

    /// Bytes of the weights.
    pub fn weights(&self) -> Vec<u8> {
        fs::read(self.dir().join("model.safetensors")).unwrap()
    }
}

pub fn violin() -> Fact {
    Fact::new("{} played the", "Louis Armstrong", "violin")
}

pub fn rome() -> Fact {
    Fact::new("Tourists visit {} in the city of", "the Brandenburg Gate", "Rome")
}
