//! Values of all layers of a window: what was searched is what the edited stream holds.

use faer::Mat;
use faer::linalg::solvers::Solve;
use incise::base::Quiet;
use incise::data::Contexts;
use incise::edit::keys::Reader;
use incise::edit::prompts::{FactRows, PromptRow};
use incise::edit::reach::reach;
use incise::edit::search::{LOSS_TOLERANCE, Push, Search, SearchFact, TargetValue, find_all};
use incise::edit::solve::layers::over_roots;
use incise::edit::solve::window::{Joining, column, streams};
use incise::linalg::vector::norm;
use incise::model::{At, MatrixId, Model, Site};
use incise::stats::{Input, Moment, Origin};
use incise::tensor::Precision;
use serde_json::json;

use super::batch::{Case, bits, open};
use crate::support::budget::U32;
use crate::support::golden::Golden;

/// Facts whose subject is the prompt's first token: what an edit does to tokens before it would
/// reach it through attention.
fn facts() -> Vec<FactRows> {
    let fact = |subject: u32, after: &[u32], target: &[u32]| {
        let end = &target[..target.len() - 1];
        let row = PromptRow { ids: [&[subject], after, end].concat(), lookup: 0 };
        let kl = PromptRow { ids: vec![subject, 7], lookup: 0 };
        FactRows {
            keys: vec![PromptRow { ids: [&[subject], after].concat(), lookup: 0 }],
            rewriting: vec![row],
            kl,
            target: target.to_vec(),
            merged: 0,
        }
    };
    vec![fact(11, &[5, 9], &[40]), fact(83, &[5, 9], &[41, 17]), fact(120, &[6], &[90])]
}

fn search(model: &Model, layers: [usize; 2]) -> Search {
    let site = Site { layer: layers[0], at: At::VALUE };
    let push = Push {
        site,
        attention: false,
        above: layers[1] - layers[0],
        loss_layer: model.arch.layers - 1,
    };
    Search {
        push,
        steps: 6,
        lr: 0.3,
        weight_decay: 0.1,
        clamp: 1.0,
        kl_factor: 0.0625,
        nll_factor: 1.0,
        anneal_nll: false,
        early_stop: 0,
        loss_tolerance: LOSS_TOLERANCE,
    }
}

fn values(model: &Model, facts: &[FactRows], search: &Search) -> Vec<TargetValue> {
    let wanted: Vec<SearchFact> = facts.iter().map(|rows| SearchFact { id: "", rows }).collect();
    let mut values = vec![None; facts.len()];
    let mut each = |i: usize, value| {
        values[i] = Some(value);
        Ok(())
    };
    find_all(model, &wanted, search, u64::MAX, &Quiet, &mut each).unwrap();
    values.into_iter().map(Option::unwrap).collect()
}

/// The exact solve R (KᵀK)⁻¹Kᵀ, in f64, layer by layer.
fn edited(model: &Model, reader: &Reader, z: &[Mat<f64>], layers: [usize; 2]) -> Model {
    let mut now = model.clone();
    for (z, layer) in z.iter().zip(layers[0]..=layers[1]) {
        let sites = [At::VALUE, At::Stream].map(|at| Site { layer, at });
        let (k, [y, s]) = reader.look(&now, layer, sites, &Quiet).unwrap();
        let joining = Joining::of(&now, layer);
        let asked: Vec<Vec<f64>> = (0..k.ncols())
            .map(|j| joining.residual(&column(z.col(j)), &column(s.col(j)), &column(y.col(j))))
            .collect();
        let r = Mat::from_fn(y.nrows(), y.ncols(), |i, j| asked[j][i]);
        let gram = k.transpose() * &k;
        let delta = r * gram.partial_piv_lu().solve(k.transpose());
        let id = MatrixId::down(layer);
        let mut w = now.matrix(id).w.to_dense::<f64>();
        let f = model.arch.inner;
        w.iter_mut().enumerate().for_each(|(at, w)| *w += delta[(at / f, at % f)]);
        now = now.with_values(id, w);
    }
    now
}

/// With norms behind the MLP, on both sides and alone, a factor on what joins the stream, branches
/// side by side, and nothing of all that.
#[test]
fn the_edited_stream_is_the_one_that_was_searched() {
    for name in ["gemma2", "olmo2", "gemma3", "granite", "gptj", "llama-tied"] {
        let model = Golden::open(name).model(Precision::F64);
        let (facts, layers) = (facts(), [0, 1]);
        let search = search(&model, layers);
        let values = values(&model, &facts, &search);
        let contexts = Contexts::new("contexts", vec![vec!["{}".to_owned()]]).unwrap();
        let rows: Vec<&FactRows> = facts.iter().collect();
        let reader = Reader::new(&model, &rows, &contexts, 0, u64::MAX);
        let z = streams(&model, &reader, &search.push, &values, &Quiet).unwrap();
        let after = edited(&model, &reader, &z, layers);
        for (z, layer) in z.iter().zip(layers[0]..=layers[1]) {
            let site = Site { layer, at: At::Stream };
            let [before, now] =
                [&model, &after].map(|model| reader.look(model, layer, [site], &Quiet).unwrap().1);
            for j in 0..z.ncols() {
                let z = column(z.col(j));
                let gap = |m: &Mat<f64>| {
                    norm(&column(m.col(j)).iter().zip(&z).map(|(x, z)| x - z).collect::<Vec<_>>())
                };
                let (off, moved) = (gap(&now[0]), gap(&before[0]));
                let case = format!("{name}, layer {layer}, fact {j}");
                println!("{case}: off {off:.1e}, moved {moved:.1e} of {:.1e}", norm(&z));
                assert!(off <= 1e-10 * norm(&z), "{case}: off by {off:e}");
                assert!(moved > 1e-3 * norm(&z), "{case}: the search moved by {moved:e}");
            }
        }
    }
}

/// The values are as long as before where a norm reads them, so a stream that a layer does not have
/// to change asks nothing of it.
#[test]
fn a_stream_that_is_there_asks_nothing() {
    for name in ["gemma2", "llama-tied"] {
        let model = Golden::open(name).model(Precision::F64);
        let contexts = Contexts::new("contexts", vec![vec!["{}".to_owned()]]).unwrap();
        let facts = facts();
        let rows: Vec<&FactRows> = facts.iter().collect();
        let reader = Reader::new(&model, &rows, &contexts, 1, u64::MAX);
        let sites = [At::VALUE, At::Stream].map(|at| Site { layer: 1, at });
        let (_, [y, s]) = reader.look(&model, 1, sites, &Quiet).unwrap();
        let joining = Joining::of(&model, 1);
        let (s, y) = (column(s.col(0)), column(y.col(0)));
        let asked = joining.residual(&s, &s, &y);
        assert!(norm(&asked) <= 1e-10 * norm(&y), "{name}: {:e}", norm(&asked));
        let Some(most) = joining.most() else {
            assert!(model.norm_behind(1).is_none() && reach(&model, &[&[1]]).unwrap().is_none());
            continue;
        };
        // What the layer gives now is within it.
        let gain = model.norm_behind(1).unwrap().gain.to_f64();
        let root = joining.root(&y);
        let given: Vec<f64> = y.iter().zip(&gain).map(|(y, g)| g * y / root).collect();
        assert!(norm(&given) <= most, "{name}: {} is above {most}", norm(&given));
        let before = reader.look(&model, 1, [Site { layer: 1, at: At::Stream }], &Quiet).unwrap();
        let prompts: Vec<&[u32]> = facts.iter().map(|f| f.keys[0].up_to_lookup()).collect();
        let reach = reach(&model, &prompts).unwrap().unwrap();
        let lengths: f64 = (0..facts.len()).map(|j| norm(&column(before.1[0].col(j)))).sum();
        let want = most * facts.len() as f64 / lengths;
        assert_eq!(reach.len(), model.arch.layers);
        assert!((reach[1] / want - 1.0).abs() < 1e-12, "{name}: {} is not {want}", reach[1]);
    }
}

/// Columns of keys and residuals over the root of the norm that reads the value.
#[test]
fn normed_statistics_take_keys_over_the_root() {
    let model = Golden::open("gemma2").model(Precision::F64);
    let d = model.arch.width;
    let y = Mat::from_fn(d, 2, |i, j| 0.5 + (i + 3 * j) as f64);
    let whole = Mat::from_fn(3, 2, |i, j| (1 + i + j) as f64);
    let (mut k, mut r) = (whole.clone(), whole.clone());
    over_roots(&model, 1, &y, [&mut k, &mut r]);
    for j in 0..2 {
        let mean = column(y.col(j)).iter().map(|y| y * y).sum::<f64>() / d as f64;
        let root = (mean + model.arch.eps).sqrt();
        for i in 0..3 {
            assert!((k[(i, j)] * root / whole[(i, j)] - 1.0).abs() < 1e-14);
            assert_eq!(k[(i, j)], r[(i, j)]);
        }
    }
}

/// C of two layers: diagonal, and no two elements alike.
fn statistics(f: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let origin =
        Origin { model: String::new(), corpus: String::new(), context_length: 0, normed: false };
    for layer in [0, 1] {
        let c =
            |at: usize| if at / f == at % f { 1.0 + (at % f + layer) as f32 / 8.0 } else { 0.0 };
        let second_moment = (0..f * f).map(c).collect();
        let (input, origin) = (Input::Key, origin.clone());
        let moment = Moment { layer, input, f, tokens: 1, second_moment, origin, part: None };
        moment.write(dir.path()).unwrap();
    }
    dir
}

/// Values of a window, from the search to the model that is written: the stream behind its last
/// layer is the one that was searched. Subjects begin their prompts, so nothing before them moves.
#[test]
fn emmet_meets_the_streams_of_a_window() {
    for name in ["olmo2", "gemma2", "gpt2"] {
        let stats = statistics(Golden::open(name).model(Precision::F64).arch.inner);
        let hparams = json!({
            "layers": [0, 1], "spread": "values", "mom2_update_weight": 100, "v_lr": 0.3,
            "v_num_grad_steps": 5, "v_weight_decay": 0.1, "clamp_norm_factor": 1,
            "kl_factor": 0.0625, "fact_token": "subject_last",
        });
        let request = |[subject, target]: [&str; 2]| {
            let prompt = "{} is in";
            json!({"prompt": prompt, "subject": subject, "target_new": target})
        };
        let case = Case {
            name: "emmet over a window".to_owned(),
            model: name.to_owned(),
            stats: stats.path().to_str().unwrap().to_owned(),
            method: "emmet".to_owned(),
            requests: json!([["B", "Paris"], ["T", "Basel"]].map(request)),
            contexts: vec![vec!["{}".to_owned()]],
            sequential: 0,
            anchor: None,
            hparams,
        };
        let ready = case.ready(Precision::F64);
        let (model, f) = (&ready.model, ready.model.arch.inner);
        assert!(ready.facts.iter().all(|fact| fact.rows.keys[0].lookup == 0), "{name}");
        let search = ready.method.search(&ready.by, &model.arch).unwrap();
        let rows: Vec<FactRows> = ready.facts.iter().map(|fact| fact.rows.clone()).collect();
        let values = values(model, &rows, &search);
        let rows: Vec<&FactRows> = rows.iter().collect();
        let contexts = Contexts::new("contexts", case.contexts.clone()).unwrap();
        let reader = Reader::new(model, &rows, &contexts, 0, u64::MAX);
        let z = streams(model, &reader, &search.push, &values, &Quiet).unwrap();
        let planned = ready.run(&ready.facts, u64::MAX, None);
        for (z, layer) in z.iter().zip([0, 1]) {
            let site = Site { layer, at: At::Stream };
            let [before, after] = [model, &planned.model]
                .map(|model| reader.look(model, layer, [site], &Quiet).unwrap().1);
            for j in 0..z.ncols() {
                let gap = |m: &Mat<f64>| (m.col(j) - z.col(j)).norm_l2();
                let (moved, off) = (gap(&before[0]), gap(&after[0]));
                // Δ is kept in f32: each of F products with the key is off by a unit, and what
                // joins the stream by as much of all it can be.
                let most = Joining::of(model, layer).most().unwrap_or(0.0);
                let bound = f as f64 * U32 * (most + z.col(j).norm_l2());
                assert!(off <= bound, "{name}, layer {layer}: off by {off:e}, {bound:e}");
                assert!(moved > 100.0 * bound, "{name}, layer {layer}: moved by {moved:e}");
            }
        }
        // What is kept on the way serves a second run.
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("kept");
        for _ in 0..2 {
            let kept = ready.run(&ready.facts, u64::MAX, Some(&mut open(&dir)));
            assert_eq!(bits(&kept), bits(&planned), "{name}");
        }
    }
}
