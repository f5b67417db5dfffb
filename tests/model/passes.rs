//! One model, several ways through it: whole, from a cache, packed, read at a site.
//!
//! Whole passes are held to the framework in `golden.rs`. Another way may be at most twice as wrong
//! as they are (f32), and in f64 differ from them by 512 units of the largest value, as there.

use std::sync::Arc;

use incise::base::Rng;
use incise::model::Past;
use incise::model::branch::{Body, Branch};
use incise::model::generate::{Beginning, Sampling, TOGETHER, generate, generate_all};
use incise::model::score::read;
use incise::model::site::Look;
use incise::model::{At, Batch, KvCache, Matrix, MatrixId, Model, Run, Site};
use incise::ops::sample;
use incise::tensor::{Compute, Precision, Tensor};

use crate::support::budget::{U32, off};
use crate::support::golden::{Golden, NAMES};
use crate::support::twin;

type Prompts = [Vec<u32>];

/// Holds `way` to `whole` on every recorded model.
fn hold(whole: impl Fn(&Model, &Prompts) -> Vec<f64>, way: impl Fn(&Model, &Prompts) -> Vec<f64>) {
    for name in NAMES {
        let golden = Golden::open(name);
        let [single, double] = [Precision::F32, Precision::F64].map(|p| golden.model(p));
        let prompts = &golden.json.prompts;
        let want = whole(&double, prompts);
        let top = want.iter().fold(0.0f64, |a, w| a.max(w.abs()));
        let gap = off(&way(&double, prompts), &want);
        assert!(gap <= 512.0 * f64::EPSILON * top, "{name} in f64: off by {gap:e}, top {top}");
        let gap = off(&way(&single, prompts), &want);
        let error = off(&whole(&single, prompts), &want).max(golden.f32_error("logits"));
        let budget = 2.0 * error + U32 * top;
        assert!(gap <= budget, "{name} in f32: off by {gap:e} > {budget:e}");
    }
}

fn logits(model: &Model, prompts: &Prompts) -> Vec<f64> {
    let one = |prompt: &Vec<u32>| {
        let all: Vec<usize> = (0..prompt.len()).collect();
        model.logits(&Batch::whole([prompt]), Past::None, &all).unwrap().to_f64()
    };
    prompts.iter().flat_map(one).collect()
}

/// However a text is cut, what follows a cache has the logits of the whole.
#[test]
fn a_cache_changes_nothing() {
    for step in [1, 4] {
        hold(logits, |model, prompts| {
            let mut all = Vec::new();
            for prompt in prompts {
                let mut cache = KvCache::new(&model.arch, &model.compute);
                let mut past = 0;
                for ids in prompt.chunks(step) {
                    let mut batch = Batch::default();
                    batch.push(ids, 0..past);
                    let rows: Vec<usize> = (0..ids.len()).collect();
                    let z = model.logits(&batch, Past::Grow(&mut cache), &rows).unwrap();
                    all.extend(z.to_f64());
                    past += ids.len();
                }
            }
            all
        });
    }
}

#[test]
fn sequences_of_a_batch_do_not_see_each_other() {
    hold(logits, |model, prompts| {
        let batch = Batch::whole(prompts);
        let all: Vec<usize> = (0..batch.len()).collect();
        model.logits(&batch, Past::None, &all).unwrap().to_f64()
    });
}

/// A layer without attention gives what one with an output projection of zeros gives, to the bit;
/// the others attend by their own heads.
#[test]
fn a_layer_may_have_no_attention() {
    let golden = Golden::open("llama-tied");
    let engine = twin::fastest("model::passes::a_layer_may_have_no_attention");
    let host: [Compute; 2] = [Precision::F32.into(), Precision::F64.into()];
    for compute in host.into_iter().chain(engine.map(Compute::from)) {
        let model = golden.model(compute);
        let id = MatrixId::new(1, Matrix::O);
        let zeros = vec![0.0; model.matrix(id).w.dims().iter().product()];
        let silent = model.with_values(id, zeros);
        let mut without = model.clone();
        let has_none = |branch: &Branch| !matches!(branch.body, Body::Attention(_));
        Arc::make_mut(&mut without.layers[1]).branches.retain(has_none);
        let want = logits(&silent, &golden.json.prompts);
        assert!(logits(&without, &golden.json.prompts) == want);
        assert!(logits(&model, &golden.json.prompts) != want);
    }
}

/// Reading runs each row only up to its token and only up to the layer.
#[test]
fn reading_a_site_is_hooking_a_whole_pass() {
    let queries = At::Output(Matrix::Q);
    for at in [At::KEY, At::VALUE, At::Stream, At::ATTENTION, queries] {
        let hooked = |model: &Model, prompts: &Prompts| {
            let batch = Batch::whole(prompts);
            let (mut x, mut run) = (model.embed(&batch), Run::new(model));
            let mut all = Vec::new();
            let layers = 0..model.arch.layers;
            let sites = layers.clone().map(|layer| Site { layer, at }).collect();
            let look = |_, t: &mut Tensor| all.extend(t.to_f64());
            let mut hook = Look { sites, look };
            model.forward(&batch, layers, Past::None, &mut x, &mut run, &mut hook);
            all
        };
        hold(hooked, |model, prompts| {
            let mut texts: Vec<&[u32]> = Vec::new();
            for prompt in prompts {
                texts.extend((1..=prompt.len()).map(|n| &prompt[..n]));
            }
            let layers = 0..model.arch.layers;
            layers
                .flat_map(|layer| read(model, &texts, Site { layer, at }).unwrap().to_f64())
                .collect()
        });
    }
}

#[test]
fn greedy_text_is_that_of_whole_passes() {
    for name in NAMES {
        let golden = Golden::open(name);
        let (model, mut rng) = (golden.model(Precision::F32), Rng::new(0, "greedy"));
        for prompt in &golden.json.prompts {
            let text = generate(&model, prompt, 12, Sampling::GREEDY, &mut rng, &[], &mut |_| true);
            let mut ids = prompt.clone();
            for _ in 0..12 {
                let last = [ids.len() - 1];
                let logits = model.logits(&Batch::whole([&ids]), Past::None, &last).unwrap();
                ids.push(sample::next(&logits, Sampling::GREEDY, 0.0).unwrap());
            }
            assert_eq!(text.unwrap(), ids[prompt.len()..], "{name}");
        }
    }
}

/// Sampled, of several lengths, one more than go on together; some end by themselves.
#[test]
fn texts_that_go_on_together_are_what_they_are_alone() {
    let sampling = Sampling { temperature: 1.0, top_k: 5, top_p: 1.0 };
    for name in NAMES {
        let golden = Golden::open(name);
        let model = golden.model(Precision::F32);
        let prompts: Vec<&Vec<u32>> =
            golden.json.prompts.iter().cycle().take(TOGETHER + 1).collect();
        let most = |i: usize| 3 + i % 7;
        let rng = |i: usize| Rng::new(i as u64, "together");
        let ends = |i: usize| {
            let mut left = if i.is_multiple_of(3) { 2 } else { 100 };
            move |_| {
                left -= 1;
                left > 0
            }
        };
        let mut rngs: Vec<Rng> = (0..prompts.len()).map(rng).collect();
        let begun = prompts.iter().zip(&mut rngs).enumerate().map(|(i, (prompt, rng))| Beginning {
            prompt,
            most: most(i),
            sampling,
            rng,
            each: Box::new(ends(i)),
        });
        let together = generate_all(&model, begun.collect(), &[]).unwrap();
        for (i, (prompt, together)) in prompts.iter().zip(together).enumerate() {
            let alone = generate(&model, prompt, most(i), sampling, &mut rng(i), &[], &mut ends(i));
            assert_eq!(alone.unwrap(), together, "{name}, text {i}");
        }
    }
}
