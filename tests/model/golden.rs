//! Every layout against the reference framework, on random tiny models.

use incise::model::Past;
use incise::model::site::Look;
use incise::model::{At, Batch, Model, Run, Site};
use incise::tensor::{Compute, Precision, Tensor};

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
        // The rest is not recorded; the stream holds it.
        let recorded = [(At::KEY, "key"), (At::VALUE, "value"), (At::Stream, "stream")];
        let layer = |layer| recorded.map(|(at, _)| Site { layer, at });
        let mut seen = 0;
        let look = |site: Site, t: &mut Tensor| {
            let at = recorded.iter().find(|(at, _)| *at == site.at).expect("asked for").1;
            golden.check(&format!("{at}.{}", site.layer), compute, &t.to_f64());
            seen += 1;
        };
        let mut hook = Look { sites: layers.clone().flat_map(layer).collect(), look };
        model.forward(&batch, layers, Past::None, &mut x, &mut run, &mut hook);
        assert_eq!(seen, 3 * model.arch.layers);
    });
}
