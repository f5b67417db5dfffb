//! Every layout against the reference framework, on random tiny models.

use incise::model::decoder::Past;
use incise::model::pushed::{Problem, Push, Pushed};
use incise::model::shared::{Shared, common};
use incise::model::{At, Batch, Model, Run, SearchPrecision, Site};
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

/// The recorded search: its facts' rows and where it pushes.
fn recorded(golden: &Golden, model: &Model) -> (Rows, Push) {
    let s = &golden.json.search;
    let row = |(ids, &lookup): (&Vec<u32>, &usize)| Row { ids: ids.clone(), lookup };
    let mut rewriting: Vec<Row> = s.sequences.iter().zip(&s.lookup).map(row).collect();
    let kl = rewriting.pop().unwrap();
    let at = if s.tap == "value" { At::Value } else { At::Stream };
    let site = Site { layer: s.layer, at };
    let push = Push { site, attention: false, loss_layer: model.arch.layers - 1 };
    (Rows { rewriting, kl, keys: vec![], target: s.target.clone(), merged: 0 }, push)
}

#[test]
fn the_search_loss_and_its_gradient_are_the_frameworks() {
    each("the_search_loss_and_its_gradient_are_the_frameworks", |golden, model, compute| {
        let s = &golden.json.search;
        let (rows, push) = recorded(golden, model);
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

/// Fast steps on every shape of model: below the tap everything is exact, KL at δ = 0 is exactly 0,
/// and a step against the gradient that should lower the loss by 0.1 lowers it by at least half of
/// that. Logits here are below 16 in size, and rounding to bf16 changes one by up to 2⁻⁹ of it.
#[test]
fn fast_steps_descend() {
    let Some(engine) = twin::engine("model::golden::fast_steps_descend") else { return };
    for name in ["gpt2", "llama-tied", "gptj", "neox", "mistral", "qwen3"] {
        let golden = Golden::open(name);
        let exact = golden.model(engine.clone());
        let mut fast = exact.clone();
        fast.search_precision = SearchPrecision::Fast;
        let (rows, push) = recorded(&golden, &exact);
        let beginnings = common([Problem::kinds(&rows)]);
        let [(t0, at_rest, slope), (same, other, _)] = [&fast, &exact].map(|model| {
            let shared = Shared::run(model, &beginnings, push.layers(), 0);
            let mut pushed = Pushed::new(model, push, &shared, true);
            let problem = Problem { rows: &rows, kl_factor: golden.json.search.kl_factor };
            let t0 = pushed.admit(&[problem]).to_f64();
            let mut look = |delta: &[f64]| {
                let say = Tensor::of(&model.compute, &[1, 1], &[1.0]);
                let delta = Tensor::of(&model.compute, &[1, delta.len()], delta);
                let gradient = pushed.step(&delta, &say);
                (pushed.parts(0), gradient.to_f64())
            };
            let (at_rest, gradient) = look(&vec![0.0; t0.len()]);
            assert_eq!(at_rest.kl, 0.0, "{name}: KL at δ = 0 is exactly 0");
            let square: f64 = gradient.iter().map(|g| g * g).sum();
            let way: Vec<f64> = gradient.iter().map(|g| -0.1 / square * g).collect();
            let (parts, _) = look(&way);
            (t0, at_rest.nll, at_rest.nll - parts.nll - parts.kl)
        });
        assert_eq!(t0, same, "{name}: t₀");
        assert_ne!(at_rest, other, "{name}: the steps were fast");
        assert!((0.05..0.15).contains(&slope), "{name}: won {slope}");
    }
}
