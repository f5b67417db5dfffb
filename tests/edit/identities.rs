//! What the formulas promise, whatever the search found.

use std::path::Path;

use faer::{Mat, Side};
use incise::base::{Quiet, Rng};
use incise::data::Contexts;
use incise::data::contexts::Average;
use incise::edit::methods::rome::{self, KeyChoice, Keys, RankOne};
use incise::edit::prompts::{FactRows, fact_rows};
use incise::edit::search::{LOSS_TOLERANCE, Push, Search};
use incise::linalg::vector::{dot, norm};
use incise::model::site::Look;
use incise::model::{At, Batch, MatrixId, Model, Past, Run, Site};
use incise::ops::rows::{self, Index};
use incise::stats::{Covariance, Input, Moment, Origin};
use incise::store::Checkpoint;
use incise::tensor::{Precision, Tensor};
use incise::text::Tokenizer;

const LAYER: usize = 1;

/// The condition of C is below it.
const CONDITION: f64 = 100.0;

struct Planned {
    model: Model,
    c: Vec<f64>, // (F, F)
    rows: FactRows,
    one: RankOne,
}

/// A random positive definite C, and one fact planned with it in f64.
fn planned(name: &str, keys: KeyChoice) -> Planned {
    planned_by(name, keys, Average::Flat)
}

fn planned_by(name: &str, choice: KeyChoice, average: Average) -> Planned {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let model = Model::load(&Checkpoint::open(&dir).unwrap(), Precision::F64).unwrap();
    let tokenizer = Tokenizer::open(&dir).unwrap();
    let target = tokenizer.encode_target("is", "Paris", None).unwrap();
    let groups = vec![vec!["{}".into()], vec!["The first time. {}".into(), "Because. {}".into()]];
    let contexts = Contexts::new("contexts", groups).unwrap();
    let rows = fact_rows(&tokenizer, &contexts.flat(), "{} is in", "Big Ben", target).unwrap();
    let f = model.arch.inner;
    let mut rng = Rng::new(7, "identities");
    let keys_: Vec<f64> = (0..3 * f * f).map(|_| rng.normal()).collect();
    let mut c = vec![0.0; f * f];
    for (i, row) in c.chunks_exact_mut(f).enumerate() {
        for (j, c) in row.iter_mut().enumerate() {
            let sum: f64 = keys_.chunks_exact(f).map(|k| k[i] * k[j]).sum();
            *c = f64::from((sum / (3 * f) as f64) as f32);
        }
    }
    let origin =
        Origin { model: String::new(), corpus: String::new(), context_length: 0, normed: false };
    let second_moment = c.iter().map(|&c| c as f32).collect();
    let moment = Moment {
        layer: LAYER,
        input: Input::Key,
        f,
        tokens: 3 * f as u64,
        second_moment,
        origin,
        part: None,
    };
    let covariance = Covariance::of(&moment).unwrap();
    assert_eq!(covariance.ridge, None);
    let eigen = Mat::from_fn(f, f, |i, j| c[i * f + j]).self_adjoint_eigenvalues(Side::Lower);
    let eigen = eigen.unwrap(); // ascending
    let condition = eigen[f - 1] / eigen[0];
    assert!(condition > 0.0 && condition < CONDITION, "the condition of C is {condition}");
    let site = Site { layer: LAYER, at: At::VALUE };
    let search = Search {
        steps: 6,
        lr: 0.5,
        weight_decay: 0.5,
        clamp: 4.0,
        kl_factor: 0.0625,
        push: Push { site, attention: false, above: 0, loss_layer: model.arch.layers - 1 },
        nll_factor: 1.0,
        anneal_nll: false,
        early_stop: 0,
        loss_tolerance: LOSS_TOLERANCE,
    };
    let keys = Keys { choice, weights: &contexts.weights(average) };
    let one = rome::plan_one(&model, Some(&covariance), &rows, keys, &search, &Quiet).unwrap();
    Planned { model, c, rows, one }
}

/// Ŵ k + b.
fn held_after(p: &Planned, k: &[f64]) -> Vec<f64> {
    let after = p.model.with_values(MatrixId::down(LAYER), rome::changed(&p.model, LAYER, &p.one));
    after.product(MatrixId::down(LAYER), k).unwrap()
}

/// An error of F·ε relative to the sizes summed: what F rounded products and additions can lose,
/// times the condition of C in C⁻¹k.
fn close(got: &[f64], want: &[f64], f: usize) {
    let gap: Vec<f64> = got.iter().zip(want).map(|(a, b)| a - b).collect();
    let bound = CONDITION * f as f64 * f64::EPSILON * norm(want);
    assert!(norm(&gap) <= bound, "off by {:e}, bound {bound:e}", norm(&gap));
}

#[test]
fn r_rome_holds_the_value_at_the_mean_key() {
    for name in ["gpt2", "llama-tied"] {
        let p = planned(name, KeyChoice::Consistent);
        let k = &p.one.k_star;
        close(&held_after(&p, k), &p.one.value.v_star(), k.len());
        assert!(norm(&p.one.value.delta) > 0.0, "the search moved");
    }
}

#[test]
fn rome_holds_the_value_at_the_bare_key() {
    for name in ["gpt2", "llama-tied"] {
        let p = planned(name, KeyChoice::Mixed);
        let k = &p.one.k0;
        close(&held_after(&p, k), &p.one.value.v_star(), k.len());
        assert_ne!(p.one.k0, p.one.k_star);
    }
}

/// k* is ½ k₀ + ¼ k₁ + ¼ k₂ by groups and ⅓ of each flat; either way the value is held at it.
#[test]
fn a_grouped_key_gives_the_bare_prompt_half_the_weight() {
    let [flat, grouped] = [Average::Flat, Average::Grouped]
        .map(|average| planned_by("gpt2", KeyChoice::Consistent, average).one);
    assert_eq!(flat.k0, grouped.k0);
    let want: Vec<f64> =
        flat.k_star.iter().zip(&flat.k0).map(|(mean, k0)| 0.75 * mean + 0.25 * k0).collect();
    close(&grouped.k_star, &want, want.len());
    assert_ne!(flat.k_star, grouped.k_star);
    let p = planned_by("llama-tied", KeyChoice::Consistent, Average::Grouped);
    close(&held_after(&p, &p.one.k_star), &p.one.value.v_star(), p.one.k_star.len());
}

#[test]
fn keys_orthogonal_by_c_keep_their_values() {
    for keys in [KeyChoice::Consistent, KeyChoice::Mixed] {
        let p = planned("gpt2", keys);
        let f = p.one.k_star.len();
        // k with kᵀC⁻¹k* = 0: any C u with uᵀk* = 0.
        let mut rng = Rng::new(8, "orthogonal");
        let mut u: Vec<f64> = (0..f).map(|_| rng.normal()).collect();
        let along = dot(&u, &p.one.k_star) / dot(&p.one.k_star, &p.one.k_star);
        u.iter_mut().zip(&p.one.k_star).for_each(|(u, k)| *u -= along * k);
        let k: Vec<f64> = p.c.chunks_exact(f).map(|row| dot(row, &u)).collect();
        close(&held_after(&p, &k), &p.model.product(MatrixId::down(LAYER), &k).unwrap(), f);
        // A key that is not orthogonal moves.
        let moved = held_after(&p, &p.one.k_star);
        let before = p.model.product(MatrixId::down(LAYER), &p.one.k_star).unwrap();
        assert!(moved.iter().zip(&before).any(|(a, b)| (a - b).abs() > 1e-3));
    }
}

#[test]
fn the_change_of_one_fact_has_rank_one() {
    let p = planned("llama-tied", KeyChoice::Consistent);
    let before = p.model.matrix(MatrixId::down(LAYER)).w.to_dense::<f64>();
    let after = rome::changed(&p.model, LAYER, &p.one);
    let f = p.one.k_star.len();
    let delta: Vec<f64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    let w = norm(&before);
    // Every 2×2 minor of a matrix of rank one vanishes; W + Δ − W keeps ε‖W‖ of rounding.
    for (i, j) in (0..delta.len() / f).zip(1..delta.len() / f) {
        for (k, l) in (0..f).zip(1..f) {
            let (a, d) = (delta[i * f + k], delta[j * f + l]);
            let (b, c) = (delta[i * f + l], delta[j * f + k]);
            let size = a.abs().max(b.abs()).max(c.abs()).max(d.abs());
            assert!((a * d - b * c).abs() <= 8.0 * f64::EPSILON * w * size + 1e-300);
        }
    }
}

/// The stream behind the edited layer at the bare prompt's lookup token, with `delta` added to the
/// value.
fn stream_behind(model: &Model, rows: &FactRows, delta: &[f64]) -> Vec<f64> {
    let batch = Batch::whole([rows.keys[0].up_to_lookup()]);
    let last = Index::new(&model.compute, [batch.len() - 1]);
    let delta = Tensor::of(&model.compute, &[1, delta.len()], delta);
    let look = |_, value: &mut Tensor| rows::scatter_add(value, &last, &delta);
    let mut hook = Look { sites: vec![Site { layer: LAYER, at: At::VALUE }], look };
    let mut x = model.embed(&batch);
    model.forward(&batch, 0..LAYER + 1, Past::None, &mut x, &mut Run::new(model), &mut hook);
    x.row_f64(batch.len() - 1)
}

/// Where a norm reads the value, what joins the stream is the search's too, and the value is as
/// long as it was.
#[test]
fn behind_a_norm_the_edit_holds_what_was_searched() {
    let p = planned("olmo2", KeyChoice::Mixed);
    let (value, f) = (&p.one.value, p.one.k_star.len());
    let before = stream_behind(&p.model, &p.rows, &vec![0.0; value.t0.len()]);
    let searched = stream_behind(&p.model, &p.rows, &value.delta);
    let after = p.model.with_values(MatrixId::down(LAYER), rome::changed(&p.model, LAYER, &p.one));
    close(&stream_behind(&after, &p.rows, &vec![0.0; value.t0.len()]), &searched, f);
    let moved: Vec<f64> = searched.iter().zip(&before).map(|(a, b)| a - b).collect();
    assert!(norm(&moved) > 0.1 * norm(&before), "the search moved");
    let [length, was] = [norm(&value.v_star()), norm(&value.t0)];
    assert!((length / was - 1.0).abs() <= 8.0 * f64::EPSILON, "{length} {was}");
}
