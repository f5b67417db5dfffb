//! Every layout against what the reference framework says of random tiny models.

use incise::model::decoder::Past;
use incise::model::pushed::{Problem, Push, Pushed};
use incise::model::shared::{Shared, common};
use incise::model::{At, Batch, Model, Run, Site};
use incise::tensor::{Compute, Precision, Tensor};
use incise::text::{Row, Rows};

use crate::support::golden::{Golden, NAMES};
use crate::support::twin;

/// Every model in both precisions of the host, and on the kernels.
fn each(name: &str, test: impl Fn(&Golden, &Model, &Compute)) {
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
            let z = model.logits(&Batch::whole([prompt]), Past::None, &all);
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

#[test]
fn the_search_loss_and_its_gradient_are_the_frameworks() {
    each("the_search_loss_and_its_gradient_are_the_frameworks", |golden, model, compute| {
        let s = &golden.json.search;
        let mut rows: Vec<Row> = s
            .sequences
            .iter()
            .zip(&s.lookup)
            .map(|(ids, &lookup)| Row { ids: ids.clone(), lookup })
            .collect();
        let kl = rows.pop().unwrap();
        let rows =
            Rows { rewriting: rows.clone(), kl, keys: vec![], target: s.target.clone(), merged: 0 };
        let at = if s.tap == "value" { At::Value } else { At::Stream };
        let site = Site { layer: s.layer, at };
        let push = Push { site, attention: false, loss_layer: model.arch.layers - 1 };
        let problem = Problem { rows: &rows, kl_factor: s.kl_factor };
        let beginnings = common([Problem::kinds(&rows)]);
        let shared = Shared::run(model, &beginnings, push.layers(), 0);
        let mut pushed = Pushed::new(model, push, &shared, true);
        golden.check("search.t0", compute, &pushed.admit(&[problem]).to_f64());

        let d = model.arch.width;
        let say = Tensor::of(compute, &[1, 1], &[1.0]);
        pushed.step(&Tensor::zeros(compute, &[1, d]), &say);
        assert_eq!(pushed.parts(0).kl, 0.0, "{}: KL at δ = 0 is exactly 0", golden.name);

        let delta = golden.tensor("search.delta");
        let gradient = pushed.step(&Tensor::of(compute, &[1, d], &delta), &say);
        let parts = pushed.parts(0);
        golden.check_loss("search.nll", compute, 1.0, parts.nll, s.nll);
        golden.check_loss("search.kl", compute, s.kl_factor, parts.kl, s.kl);

        // The recorded gradient is of the whole loss; ours is without the decay.
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let t0 = norm(&golden.tensor("search.t0"));
        let shrink = s.v_weight_decay / (t0 * t0 * norm(&delta));
        let whole: Vec<f64> =
            gradient.to_f64().iter().zip(&delta).map(|(g, d)| g + shrink * d).collect();
        golden.check("search.grad", compute, &whole);
    });
}
