//! Second moments of keys over the root of the norm behind their MLP.

use std::fs;
use std::path::Path;

use incise::base::Quiet;
use incise::data::Corpus;
use incise::editor::Editor;
use incise::editor::statistics::Gathering;
use incise::model::site::Look;
use incise::model::{At, Batch, Model, Past, Run, Site};
use incise::stats::{Collect, Input, LayerInput, Moment, Origin, collect, merge};
use incise::tensor::{Precision, Tensor};
use incise::text::Tokenizer;

use crate::support::budget::off;
use crate::support::golden::Golden;

const LAYERS: [usize; 2] = [0, 2];

fn origin() -> Origin {
    Origin { model: "m".into(), corpus: "c".into(), context_length: 16, normed: true }
}

fn corpus() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let line = |i: usize| format!("Line {i} tells of {}.\n", "rivers ".repeat(i % 4));
    fs::write(file.path(), (0..40).map(line).collect::<String>()).unwrap();
    file
}

fn collected(model: &Model, tokenizer: &Tokenizer, corpus: &Path, dir: &Path) -> Vec<Moment> {
    let inputs = LayerInput::all(&LAYERS, &[Input::Key]);
    let what = Collect { inputs, max_tokens: u64::MAX, origin: origin(), share: None };
    let corpus = Corpus::open(&[corpus]).unwrap();
    collect(model, tokenizer, corpus.documents(), &what, dir, &Quiet).unwrap()
}

/// Σ k kᵀ/r² over Σ 1/r², sequence by sequence and token by token, in f64.
fn plain(model: &Model, tokenizer: &Tokenizer, corpus: &Path, layer: usize) -> Vec<f64> {
    let f = model.arch.inner;
    let (mut sum, mut roots) = (vec![0.0; f * f], 0.0);
    let corpus = Corpus::open(&[corpus]).unwrap();
    for document in corpus.documents() {
        let ids = tokenizer.encode(&document.unwrap()).unwrap();
        for window in ids.chunks(16) {
            let [mut keys, mut values] = [Vec::new(), Vec::new()];
            let look = |site: Site, shown: &mut Tensor| {
                let of = if site.at == At::KEY { &mut keys } else { &mut values };
                *of = (0..shown.shape()[0]).map(|row| shown.row_f64(row)).collect();
            };
            let sites = [At::KEY, At::VALUE].map(|at| Site { layer, at }).to_vec();
            let batch = Batch::whole([window]);
            let (mut x, mut run) = (model.embed(&batch), Run::new(model));
            let mut hook = Look { sites, look };
            model.forward(&batch, 0..layer + 1, Past::None, &mut x, &mut run, &mut hook);
            for (k, y) in keys.iter().zip(&values) {
                let mean = y.iter().map(|y| y * y).sum::<f64>() / y.len() as f64;
                let weight = 1.0 / (mean + model.arch.eps);
                roots += weight;
                for (i, row) in sum.chunks_exact_mut(f).enumerate() {
                    row.iter_mut().zip(k).for_each(|(c, kj)| *c += weight * k[i] * kj);
                }
            }
        }
    }
    sum.iter().map(|c| c / roots).collect()
}

#[test]
fn they_are_those_of_every_token() {
    for name in ["olmo2", "gemma2"] {
        let golden = Golden::open(name);
        let [single, double] = [Precision::F32, Precision::F64].map(|p| golden.model(p));
        let tokenizer = Tokenizer::open(&golden.dir).unwrap();
        let (corpus, dir) = (corpus(), tempfile::tempdir().unwrap());
        let found = collected(&single, &tokenizer, corpus.path(), dir.path());
        for (moment, layer) in found.iter().zip(LAYERS) {
            let got: Vec<f64> = moment.second_moment.iter().map(|&c| c.into()).collect();
            let want = plain(&double, &tokenizer, corpus.path(), layer);
            let largest = want.iter().fold(0.0, |a: f64, c| a.max(c.abs()));
            // Keys and values of an f32 pass, of a few hundred roundings each, and their squares.
            let bound = 1024.0 * f64::from(f32::EPSILON) * largest;
            let gap = off(&got, &want);
            assert!(gap <= bound, "{name}, layer {layer}: off by {gap:e}, bound {bound:e}");
            assert!(moment.origin.normed && largest > 0.0);
        }
    }
}

#[test]
fn files_say_so_and_are_not_mixed() {
    let golden = Golden::open("olmo2");
    let model = golden.model(Precision::F32);
    let tokenizer = Tokenizer::open(&golden.dir).unwrap();
    let (corpus, dir) = (corpus(), tempfile::tempdir().unwrap());
    let found = collected(&model, &tokenizer, corpus.path(), dir.path());
    found.iter().for_each(|moment| moment.write(dir.path()).unwrap());
    let read = Moment::open(dir.path(), 0).unwrap();
    assert_eq!(read, found[0]);
    let plain = Origin { normed: false, ..origin() };
    let error = Moment::check_overwrite(dir.path(), 0, &plain, None, u64::MAX).unwrap_err();
    assert!(error.to_string().contains("normed"), "{error}");
    let other = tempfile::tempdir().unwrap();
    let origin = Origin { corpus: "d".into(), ..origin() };
    Moment { origin, ..found[0].clone() }.write(other.path()).unwrap();
    let merged = merge::merge(&[dir.path(), other.path()], 0).unwrap_err().to_string();
    assert!(merged.contains("normed"), "{merged}");
}

#[test]
fn without_a_norm_behind_the_mlp_they_are_refused() {
    let (corpus, dir) = (corpus(), tempfile::tempdir().unwrap());
    let ask = |name, gathering: Gathering| {
        let editor = Editor::open(Golden::open(name).dir).unwrap();
        editor.collect_statistics(&[corpus.path()], &gathering, dir.path()).unwrap_err().to_string()
    };
    let normed = Gathering { layers: vec![0], normed: true, ..Gathering::default() };
    assert!(ask("llama-tied", normed.clone()).contains("no norm is behind the MLP"));
    let of_queries = Gathering { inputs: vec![Input::AttentionInput], ..normed };
    assert!(ask("olmo2", of_queries).contains("of keys"));
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was begun");
}
