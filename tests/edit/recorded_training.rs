//! Trainings that `tools/reference_mend.py`, `reference_ke.py` and `reference_serac.py` recorded.

use std::fs;
use std::path::Path;

use incise::data::request;
use incise::edit::hparams::HparamSet;
use incise::edit::kl_bound::{KlBound, KlBoundRule};
use incise::edit::methods::find;
use incise::edit::params::Params;
use incise::edit::weight_editor::OuterLoss;
use incise::model::Model;
use incise::store::Checkpoint;
use incise::tensor::{Compute, Precision, Tensor};
use incise::text::Tokenizer;
use incise::train::{Drawn, Parameters, Sample};
use serde::Deserialize;
use serde_json::{Value, json};

use super::reference::{golden, tensor};

/// A recorded training.
#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    pub model: String,
    pub method: String,
    pub requests: Value,
    pub draws: Vec<[i64; 3]>,
    pub hparams: Value,
}

impl Case {
    pub fn all(method: &str) -> Vec<Case> {
        let file = golden().join(method).join("cases.json");
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }

    pub fn gpt2(method: &str) -> Case {
        Case::all(method).into_iter().find(|case| case.model == "gpt2").unwrap()
    }

    pub fn record(&self) -> Vec<u8> {
        let Case { method, name, .. } = self;
        fs::read(golden().join(format!("{method}/{name}.safetensors"))).unwrap()
    }

    pub fn model(&self, compute: impl Into<Compute>) -> Model {
        let dir = golden().join(&self.model);
        Model::load(&Checkpoint::open(&dir).unwrap(), compute).unwrap()
    }

    pub fn samples(&self, model: &Model) -> Vec<Sample> {
        let tokenizer = Tokenizer::open(golden().join(&self.model)).unwrap();
        let requests = request::parse("case", self.requests.to_string().as_bytes()).unwrap();
        // The reference puts a space before every target.
        let sample = |fact| Sample::new(model, &tokenizer, fact, Some(true)).unwrap();
        requests.iter().map(sample).collect()
    }

    /// Its hyperparameters, and others over them.
    pub fn values(&self, others: Value) -> HparamSet {
        let mut all = self.hparams.clone();
        for (name, value) in others.as_object().unwrap() {
            all[name] = value.clone();
        }
        HparamSet::parse(Path::new("case"), all.to_string().as_bytes()).unwrap()
    }

    pub fn params(&self, model: &Model, others: Value) -> Params {
        self.values(others).resolve(find(&self.method).unwrap(), model).unwrap()
    }

    pub fn number(&self, name: &str) -> f64 {
        self.hparams[name].as_f64().unwrap()
    }

    /// The reference's tensor at the start: the model's own, where it recorded none.
    pub fn start(&self, name: &str) -> Vec<f64> {
        match name.parse() {
            Ok(id) => self.model(Precision::F64).matrix(id).w.to_dense(),
            Err(_) => tensor(&self.record(), &format!("start.{name}")),
        }
    }

    /// Gives parameters the values that the reference began with.
    pub fn begin(&self, parameters: &mut Parameters) {
        let precision = parameters.precision();
        for p in parameters.all_mut() {
            *p.value_mut() = Tensor::of(precision, p.value().shape(), &self.start(&p.name));
        }
    }

    /// What is trained for; joins the parameters.
    pub fn outer(&self, model: &Model, parameters: &mut Parameters) -> OuterLoss {
        match KlBoundRule::of(&self.params(model, json!({}))) {
            Some(rule) => OuterLoss::Bound(KlBound::new(rule, parameters)),
            None => OuterLoss::Weighed(self.weights()),
        }
    }

    pub fn weights(&self) -> [f64; 2] {
        [self.number("cedit"), self.number("cloc")]
    }
}

/// What a record drew; an outer prompt of −1 is the edit's own.
pub fn drawn<'a>(samples: &'a [Sample], &[record, outer, locality]: &[i64; 3]) -> Drawn<'a> {
    let sample = &samples[record as usize];
    let outer = usize::try_from(outer).map_or(&sample.edit, |outer| &sample.outer[outer]);
    Drawn { edit: &sample.edit, outer, locality: &sample.locality[locality as usize] }
}
