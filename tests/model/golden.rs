//! Every layout against the reference framework, on random tiny models.

use incise::model::Past;
use incise::model::{At, Batch, Model, Run};
use incise::tensor::{Compute, Precision};

use crate::support::golden::{Golden, NAMES};
use crate::support::twin;

/// Every model in both precisions of the host, and on the kernels.
pub fn each(name: &str, test: impl Fn(&Golden, &Model, &Compute)) {
    let mut computes = vec![Precision::F64.into(), Precision::F32.into()];
    computes.extend(twin::engine(&format!("model::golden::{name}, kernels")).map(Compute::from));
    for golden in NAMES.map(Golden::open) {
        for compute in &computes {
            test(&golden, &golden.model(compute), compute);
        }
    }
}

#[test]
fn logits_are_the_frameworks() {
    each("logits_are_the_frameworks", |golden, model, compute| {
        for (i, prompt) in golden.json.prompts.iter().enumerate() {
            let all: Vec<usize> = (0..prompt.len()).collect();
            let z = model.logits(&Batch::whole([prompt]), Past::None, &all).unwrap();
            golden.check(&format!("logits.{i}"), compute, &z.to_f64());
        }
    });
}

#[test]
fn sites_hold_what_the_framework_holds() {
    each("sites_hold_what_the_framework_holds", |golden, model, compute| {
        let batch = Batch::whole([&golden.json.prompts[golden.json.captured]]);
        let mut x = model.embed(&batch);
        let layers = 0..model.arch.layers;
        let mut run = Run::new(model);
        model.forward(&batch, layers, Past::None, &mut x, &mut run, &mut |site, t| {
            let at = match site.at {
                At::Key => "key",
                At::Value => "value",
                At::Stream => "stream",
                At::Attention => return, // not recorded; the stream holds it
            };
            golden.check(&format!("{at}.{}", site.layer), compute, &t.to_f64());
        });
    });
}
