//! A planned edit on the whole, as JSON.

use serde_json::{Value, json};

use super::edit::{Artifact, Edit};
use super::report::change_json;

impl Edit {
    /// The edit on the whole: method, hyperparameters and where each is from, contexts, what was
    /// done to each matrix (`norm` is ‖Δ‖, `weight` ‖W‖, both Frobenius'), how far each layer can
    /// move the stream where a norm bounds it, and how many requests
    /// were superseded or skipped. [`lines`](Edit::lines) has what became of each request.
    pub fn summary(&self) -> Value {
        let [hyperparameters, sources] = self.hyperparameters();
        let layers = self.changes().iter().map(|c| change_json(self.tensor(c.id), c));
        json!({
            "method": self.method(),
            "facts": self.facts().len(),
            "superseded": self.superseded().len(),
            "skipped": self.skipped().len(),
            "memory": memory_json(self.artifact()),
            "layers": layers.collect::<Vec<_>>(),
            "reach": self.reach(),
            "hyperparameters": hyperparameters, "hyperparameters_from": sources,
            "contexts": self.contexts().to_json(),
        })
    }
}

/// What of an edit lives beside the weights; null where nothing does.
fn memory_json(artifact: &Artifact) -> Value {
    match artifact {
        Artifact::Memory(memory) => {
            json!({"matrix": memory.place(), "entries": memory.entries()})
        }
        Artifact::Weights(_) => Value::Null,
    }
}
