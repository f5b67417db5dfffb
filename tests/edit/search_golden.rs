//! The loss of the value search and its gradient, against what the reference framework says of
//! random tiny models.

use incise::edit::prompts::{FactRows, PromptRow};

use incise::edit::search::first_look::FirstLook;
use incise::edit::search::objective::Objective;
use incise::edit::search::packing::shared_prefixes;
use incise::edit::search::{Push, Search};
use incise::model::prefix::PrefixCache;
use incise::model::{At, MatrixId, Model, SearchPrecision, Site};
use incise::tensor::{Precision, Tensor};

use crate::model::golden::each;
use crate::support::golden::Golden;
use crate::support::twin;

/// The recorded search: its facts' rows and where it pushes.
fn recorded(golden: &Golden, model: &Model) -> (FactRows, Push) {
    let s = &golden.json.search;
    let row = |(ids, &lookup): (&Vec<u32>, &usize)| PromptRow { ids: ids.clone(), lookup };
    let mut rewriting: Vec<PromptRow> = s.sequences.iter().zip(&s.lookup).map(row).collect();
    let kl = rewriting.pop().unwrap();
    let at = if s.tap == "value" { At::VALUE } else { At::Stream };
    let site = Site { layer: s.layer, at };
    let push = Push { site, attention: false, above: 0, loss_layer: model.arch.layers - 1 };
    (FactRows { rewriting, kl, keys: vec![], target: s.target.clone(), merged: 0 }, push)
}

#[test]
fn the_search_loss_and_its_gradient_are_the_frameworks() {
    each("the_search_loss_and_its_gradient_are_the_frameworks", |golden, model, compute| {
        let s = &golden.json.search;
        let (rows, push) = recorded(golden, model);
        let prefixes = PrefixCache::run(model, &shared_prefixes([&rows]), push.layers(), 0);
        let mut objective = Objective::new(model, push, s.kl_factor, prefixes, 0);
        golden.check("search.t0", compute, &objective.admit(&[&rows]).to_f64());

        let d = model.arch.width;
        let f = Tensor::of(compute, &[1, 1], &[1.0]);
        objective.gradient(&Tensor::zeros(compute, &[1, d]), &f);
        assert_eq!(objective.loss(0).kl, 0.0, "{}: KL at δ = 0 is exactly 0", golden.name);

        let delta = golden.tensor("search.delta");
        let gradient = objective.gradient(&Tensor::of(compute, &[1, d], &delta), &f);
        let loss = objective.loss(0);
        golden.check_loss("search.nll", compute, 1.0, loss.nll, s.nll);
        golden.check_loss("search.kl", compute, s.kl_factor, loss.kl, s.kl);

        // The recorded gradient is of the whole loss; ours is without the decay.
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let t0 = norm(&golden.tensor("search.t0"));
        let shrink = s.v_weight_decay / (t0 * t0 * norm(&delta));
        let whole: Vec<f64> =
            gradient.to_f64().iter().zip(&delta).map(|(g, d)| g + shrink * d).collect();
        golden.check("search.grad", compute, &whole);
    });
}

fn search(golden: &Golden, push: Push) -> Search {
    Search {
        push,
        steps: 1,
        lr: 0.5,
        weight_decay: 0.0,
        clamp: 1.0,
        kl_factor: golden.json.search.kl_factor,
        nll_factor: 1.0,
        anneal_nll: false,
        early_stop: 0,
        loss_tolerance: 0.0,
    }
}

/// On models that between them launch every kernel, the first look, exact and fast, is within what
/// its precision explains, and a look at the model with one matrix a hundredth larger is not.
#[test]
fn a_first_look_is_the_hosts() {
    let Some(engine) = twin::engine("edit::search_golden::a_first_look_is_the_hosts") else {
        return;
    };
    for golden in ["gpt2-bf16", "neox", "llama-tied", "qwen3"].map(Golden::open) {
        let mut device = golden.model(engine.clone());
        let (rows, push) = recorded(&golden, &device);
        let by = search(&golden, push);
        let look = |model: &Model| FirstLook::of(model, &rows, &by).unwrap();
        let [single, double] =
            [Precision::F32, Precision::F64].map(|precision| look(&golden.model(precision)));
        for precision in [SearchPrecision::Exact, SearchPrecision::Fast] {
            device.search_precision = precision;
            let held = look(&device).hold("a card", precision, [&single, &double]);
            held.unwrap_or_else(|e| panic!("{} {precision:?}: {e}", golden.name));
        }
        device.search_precision = SearchPrecision::Exact;
        let l = push.site.layer + 1;
        let id = MatrixId::down(l);
        let w = device.matrix(id).w.to_dense::<f64>();
        let wrong = device.with_values(id, w.iter().map(|w| 1.01 * w).collect());
        let said = look(&wrong).hold("a card", SearchPrecision::Exact, [&single, &double]);
        let said = said.unwrap_err().to_string();
        assert!(said.contains("a card: the search's first look is wrong: "), "{said}");
    }
}

/// Fast steps on every shape of model: below the tap everything is exact, KL at δ = 0 is exactly 0,
/// and a step against the gradient that should lower the loss by 0.1 lowers it by at least half of
/// that. Logits here are below 16 in size, and rounding to bf16 changes one by up to 2⁻⁹ of it.
#[test]
fn fast_steps_descend() {
    let Some(engine) = twin::engine("edit::search_golden::fast_steps_descend") else { return };
    for name in ["gpt2", "llama-tied", "gptj", "neox", "mistral", "qwen3"] {
        let golden = Golden::open(name);
        let exact = golden.model(engine.clone());
        let mut fast = exact.clone();
        fast.search_precision = SearchPrecision::Fast;
        let (rows, push) = recorded(&golden, &exact);
        let [(t0, at_rest, slope), (same, other, _)] = [&fast, &exact].map(|model| {
            let prefixes = PrefixCache::run(model, &shared_prefixes([&rows]), push.layers(), 0);
            let kl_factor = golden.json.search.kl_factor;
            let mut objective = Objective::new(model, push, kl_factor, prefixes, 0);
            let t0 = objective.admit(&[&rows]).to_f64();
            let mut at = |delta: &[f64]| {
                let f = Tensor::of(&model.compute, &[1, 1], &[1.0]);
                let delta = Tensor::of(&model.compute, &[1, delta.len()], delta);
                let gradient = objective.gradient(&delta, &f);
                (objective.loss(0), gradient.to_f64())
            };
            let (at_rest, gradient) = at(&vec![0.0; t0.len()]);
            assert_eq!(at_rest.kl, 0.0, "{name}: KL at δ = 0 is exactly 0");
            let square: f64 = gradient.iter().map(|g| g * g).sum();
            let way: Vec<f64> = gradient.iter().map(|g| -0.1 / square * g).collect();
            let (loss, _) = at(&way);
            (t0, at_rest.nll, at_rest.nll - loss.nll - loss.kl)
        });
        assert_eq!(t0, same, "{name}: t₀");
        assert_ne!(at_rest, other, "{name}: the steps were fast");
        assert!((0.05..0.15).contains(&slope), "{name}: won {slope}");
    }
}
