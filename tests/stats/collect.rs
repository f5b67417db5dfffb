//! Second moments: against the reference framework's, against recorded ones of a trained model,
//! and interrupted.

use std::fs;
use std::path::Path;

use incise::base::{Error, Progress, Quiet, Result, Share};
use incise::data::Corpus;
use incise::model::{Model, fingerprint};
use incise::ops::gram;
use incise::stats::file::write_all;
use incise::stats::{Collect, Covariance, Input, LayerInput, Moment, Origin, collect, merge};
use incise::store::Checkpoint;
use incise::tensor::{Precision, Tensor};
use incise::text::Tokenizer;
use safetensors::SafeTensors;

use crate::support::cancel::CancelAt;
use crate::support::golden::{Golden, NAMES};
use crate::support::shared::shared;

#[test]
fn moments_of_keys_are_the_frameworks() {
    use incise::model::Past;
    use incise::model::site::Look;
    use incise::model::{At, Batch, Run, Site};
    for name in NAMES {
        let golden = Golden::open(name);
        for precision in [Precision::F32, Precision::F64] {
            let model = golden.model(precision);
            let (f, layers) = (model.arch.inner, model.arch.layers);
            let mut totals = vec![vec![0.0; gram::packed_len(f)]; layers];
            let batch = Batch::whole(&golden.json.prompts);
            let mut x = model.embed(&batch);
            let mut run = Run::new(&model);
            let sites = (0..layers).map(|layer| Site { layer, at: At::KEY }).collect();
            let look = |site: Site, k: &mut Tensor| gram::accumulate(k, &mut totals[site.layer]);
            let mut hook = Look { sites, look };
            model.forward(&batch, 0..layers, Past::None, &mut x, &mut run, &mut hook);
            for (l, total) in totals.iter().enumerate() {
                let tokens = batch.len() as f64;
                let entry = |i: usize, j: usize| {
                    let (i, j) = (i.max(j), i.min(j));
                    total[i * (i + 1) / 2 + j] / tokens
                };
                let all: Vec<f64> = (0..f).flat_map(|i| (0..f).map(move |j| entry(i, j))).collect();
                golden.check_moment(l, &precision.into(), &all);
            }
        }
    }
}

fn tokens_of(limit: u64, origin: Origin, layers: &[usize]) -> Collect {
    let inputs = LayerInput::all(layers, &[Input::Key]);
    Collect { inputs, max_tokens: limit, origin, share: None }
}

#[test]
fn statistics_of_a_trained_model_are_the_recorded_ones() {
    let Some(dir) = shared("statistics_of_a_trained_model_are_the_recorded_ones", "factlm-gpt2")
    else {
        return;
    };
    let model = Model::load(&Checkpoint::open(&dir).unwrap(), Precision::F32).unwrap();
    let tokenizer = Tokenizer::open(&dir).unwrap();
    let corpus = Corpus::open(&[dir.join("text.txt")]).unwrap();
    let origin =
        Origin { model: "m".into(), corpus: "c".into(), context_length: 256, normed: false };
    let out = tempfile::tempdir().unwrap();
    let what = tokens_of(60_000, origin, &[1, 2]);
    let got = collect(&model, &tokenizer, corpus.documents(), &what, out.path(), &Quiet).unwrap();
    let file = fs::read(dir.join("second_moment.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    for moment in got {
        let want = file.tensor(&moment.layer.to_string()).unwrap();
        let (want, _) = want.data().as_chunks::<4>();
        let (mut gap, mut size) = (0.0, 0.0);
        for (g, w) in moment.second_moment.iter().zip(want) {
            let w = f64::from(f32::from_le_bytes(*w));
            gap += (f64::from(*g) - w).powi(2);
            size += w * w;
        }
        let off = f64::sqrt(gap / size);
        println!("layer {}: {} tokens, off by {off:e}", moment.layer, moment.tokens);
        assert_eq!(moment.tokens, 60_000);
        assert!(off <= 1e-5, "layer {}: off by {off:e}", moment.layer);
    }
}

pub struct Toy {
    pub golden: Golden,
    pub model: Model,
    tokenizer: Tokenizer,
    pub corpus: tempfile::NamedTempFile,
}

pub fn toy() -> Toy {
    let golden = Golden::open("llama-tied");
    let model = golden.model(Precision::F32);
    let tokenizer = Tokenizer::open(&golden.dir).unwrap();
    let corpus = tempfile::NamedTempFile::new().unwrap();
    let line =
        |i: usize| format!("Line {i} tells of {} and of nothing else.\n", "rivers ".repeat(i % 9));
    fs::write(corpus.path(), (0..300).map(line).collect::<String>()).unwrap();
    Toy { golden, model, tokenizer, corpus }
}

impl Toy {
    fn collect(&self, out: &Path, limit: u64, progress: &dyn Progress) -> Result<Vec<Moment>> {
        self.share(None, out, limit, progress)
    }

    pub fn share(
        &self,
        share: Option<Share>,
        out: &Path,
        limit: u64,
        progress: &dyn Progress,
    ) -> Result<Vec<Moment>> {
        let what = Collect { share, ..tokens_of(limit, self.origin(), &[0, 1]) };
        self.run(&what, out, progress)
    }

    fn sites(
        &self,
        inputs: Vec<LayerInput>,
        out: &Path,
        limit: u64,
        progress: &dyn Progress,
    ) -> Result<Vec<Moment>> {
        self.run(&Collect { inputs, ..tokens_of(limit, self.origin(), &[]) }, out, progress)
    }

    fn origin(&self) -> Origin {
        let corpus = Corpus::open(&[self.corpus.path()]).unwrap().hash().unwrap();
        let model = fingerprint(&Checkpoint::open(&self.golden.dir).unwrap(), &Quiet).unwrap();
        Origin { model, corpus, context_length: 16, normed: false }
    }

    fn run(&self, what: &Collect, out: &Path, progress: &dyn Progress) -> Result<Vec<Moment>> {
        let corpus = Corpus::open(&[self.corpus.path()]).unwrap();
        collect(&self.model, &self.tokenizer, corpus.documents(), what, out, progress)
    }
}

#[test]
fn an_interrupted_collection_goes_on_to_the_same_bits() {
    let (toy, a, b) = (toy(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = toy.collect(a.path(), u64::MAX, &Quiet).unwrap();
    assert!(whole[0].tokens > 4096, "several batches");
    for _ in 0..2 {
        let cut = toy.collect(b.path(), u64::MAX, &CancelAt::question(2));
        assert!(matches!(cut, Err(Error::Interrupted { .. })));
    }
    assert_eq!(toy.collect(b.path(), u64::MAX, &Quiet).unwrap(), whole);
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let (toy, dir) = (toy(), tempfile::tempdir().unwrap());
    let with = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        pool.install(|| toy.collect(dir.path(), 3000, &Quiet).unwrap())
    };
    assert_eq!(with(1), with(2));
}

#[test]
fn the_limit_is_met_exactly_and_each_document_is_its_own_sequence() {
    let (toy, dir) = (toy(), tempfile::tempdir().unwrap());
    let moments = toy.collect(dir.path(), 1234, &Quiet).unwrap();
    assert_eq!(moments[0].tokens, 1234);
    // The trace of C is the mean squared key; summed by hand over single sequences.
    let mut left = 1234;
    let (mut total, f) = (0.0, toy.model.arch.inner);
    for line in fs::read_to_string(toy.corpus.path()).unwrap().lines() {
        for window in toy.tokenizer.encode(line).unwrap().chunks(16) {
            let window = &window[..left.min(window.len())];
            left -= window.len();
            total += keys(&toy.model, window).iter().map(|k| k * k).sum::<f64>();
        }
    }
    let trace: f64 = (0..f).map(|i| f64::from(moments[0].second_moment[i * f + i])).sum();
    let want = total / 1234.0;
    // f32 keys and a mean rounded to f32: a few units of 2⁻²⁴ each.
    assert!((trace - want).abs() <= 8.0 * f64::from(f32::EPSILON) * want, "{trace} {want}");
}

fn keys(model: &Model, ids: &[u32]) -> Vec<f64> {
    use incise::model::Past;
    use incise::model::site::Look;
    use incise::model::{At, Batch, Run, Site};
    if ids.is_empty() {
        return vec![];
    }
    let batch = Batch::whole([ids]);
    let (mut x, mut run, mut keys) = (model.embed(&batch), Run::new(model), vec![]);
    let look = |_, t: &mut Tensor| keys = t.to_f64();
    let mut hook = Look { sites: vec![Site { layer: 0, at: At::KEY }], look };
    model.forward(&batch, 0..1, Past::None, &mut x, &mut run, &mut hook);
    keys
}

/// Every site of both layers.
fn everywhere() -> Vec<LayerInput> {
    LayerInput::all(&[0, 1], &Input::ALL)
}

/// Sites beside the keys are taken in the same pass; the files of the keys stay what they are.
#[test]
fn sites_of_other_matrices() {
    let (toy, keys, all) = (toy(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let alone = toy.collect(keys.path(), 1234, &Quiet).unwrap();
    write_all(&alone, keys.path()).unwrap();
    for _ in 0..2 {
        let cut = toy.sites(everywhere(), all.path(), 1234, &CancelAt::question(1));
        assert!(matches!(cut, Err(Error::Interrupted { .. })));
    }
    let why = toy.collect(all.path(), 1234, &Quiet).unwrap_err().to_string();
    assert!(why.contains("choice of layers"), "{why}");
    let moments = toy.sites(everywhere(), all.path(), 1234, &Quiet).unwrap();
    assert_eq!(moments.iter().map(Moment::is_of).collect::<Vec<_>>(), everywhere());
    write_all(&moments, all.path()).unwrap();
    for layer in 0..2 {
        let [a, b] = [&keys, &all].map(|dir| fs::read(Moment::path(dir.path(), layer)).unwrap());
        assert!(a == b, "layer {layer}: the file of its keys");
    }
    let attended = LayerInput { layer: 1, input: Input::Attended };
    let path = Moment::path(all.path(), attended);
    assert!(path.ends_with("layer-1.attended.safetensors"));
    let arch = &toy.model.arch;
    for moment in &moments {
        let width = match moment.input {
            Input::Key => arch.inner,
            Input::Attended => arch.q_width(),
            Input::AttentionInput | Input::MlpInput => arch.width,
        };
        let model = &moment.origin.model;
        assert_eq!(Moment::read(all.path(), moment.is_of(), width, model).unwrap(), *moment);
        let rows = read_by(&toy, moment.is_of());
        for (i, j) in [(0, 0), (1, 0), (width - 1, width / 2)] {
            let at = |r: &[f64]| r[i] * r[j];
            let (mut want, mut size) = (0.0, 0.0);
            rows.chunks_exact(width)
                .for_each(|r| (want, size) = (want + at(r), size + at(r).abs()));
            let gap = f64::from(moment.second_moment[i * width + j]) - want / 1234.0;
            // Sums of 512 f32 products and more, and a mean rounded to f32.
            let bound = 512.0 * f64::from(f32::EPSILON) * size / 1234.0;
            assert!(gap.abs() <= bound, "{}: ({i}, {j}) {gap:e}", moment.is_of().title());
        }
    }
    // Merged with another text, site by site; a file of another name or site is not taken for one.
    let (other, merged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for moment in &moments {
        let mut next = moment.clone();
        next.origin.corpus = "another".into();
        next.write(other.path()).unwrap();
    }
    fs::copy(&path, all.path().join("layer-1.attend.safetensors")).unwrap();
    let dirs = [all.path().to_owned(), other.path().to_owned()];
    let inputs = merge::inputs(&dirs).unwrap();
    assert_eq!(inputs.keys().copied().collect::<Vec<_>>(), everywhere());
    merge::merge(&inputs[&attended], attended).unwrap().write(merged.path()).unwrap();
    assert_eq!(Moment::open(merged.path(), attended).unwrap().tokens, 2468);
    fs::rename(Moment::path(merged.path(), attended), Moment::path(merged.path(), 1)).unwrap();
    let why = Moment::open(merged.path(), 1).unwrap_err().to_string();
    assert!(why.contains("site: is `attended`, not key"), "{why}");
}

/// What a site holds of the first 1,234 tokens, row by row.
fn read_by(toy: &Toy, of: LayerInput) -> Vec<f64> {
    use incise::model::site::Look;
    use incise::model::{Batch, Past, Run};
    let (mut left, mut rows) = (1234, Vec::new());
    for line in fs::read_to_string(toy.corpus.path()).unwrap().lines() {
        for window in toy.tokenizer.encode(line).unwrap().chunks(16) {
            let window = &window[..left.min(window.len())];
            left -= window.len();
            if window.is_empty() {
                continue;
            }
            let batch = Batch::whole([window]);
            let (mut x, mut run) = (toy.model.embed(&batch), Run::new(&toy.model));
            let look = |_, t: &mut Tensor| rows.extend(t.to_f64());
            let mut hook = Look { sites: vec![of.site()], look };
            toy.model.forward(&batch, 0..2, Past::None, &mut x, &mut run, &mut hook);
        }
    }
    rows
}

#[test]
fn files_come_back_and_foreign_ones_are_refused() {
    let (toy, dir) = (toy(), tempfile::tempdir().unwrap());
    let moments = toy.collect(dir.path(), 1000, &Quiet).unwrap();
    write_all(&moments, dir.path()).unwrap();
    let (f, name) = (toy.model.arch.inner, moments[1].origin.model.clone());
    assert_eq!(Moment::read(dir.path(), 1, f, &name).unwrap(), moments[1]);
    let error =
        |layer, f, model| Moment::read(dir.path(), layer, f, model).unwrap_err().to_string();
    assert!(error(1, f, "another").contains("is of the model"));
    assert!(error(1, f + 1, &name).contains("second_moment"));
    assert!(error(5, f, &name).contains("layer-5.safetensors"));
    fs::copy(Moment::path(dir.path(), 0), Moment::path(dir.path(), 1)).unwrap();
    assert!(error(1, f, &name).contains("is not 1"));
}

#[test]
fn statistics_in_progress_of_another_text_are_refused() {
    let (toy, dir) = (toy(), tempfile::tempdir().unwrap());
    toy.collect(dir.path(), u64::MAX, &CancelAt::question(1)).unwrap_err();
    fs::write(toy.corpus.path(), "Another text.\n").unwrap();
    let error = toy.collect(dir.path(), u64::MAX, &Quiet).unwrap_err().to_string();
    assert!(error.contains("another model, corpus, shard or choice of layers"), "{error}");
    assert!(dir.path().join("partial.safetensors").is_file(), "it is left alone");
}

#[test]
fn too_few_tokens_get_a_ridge_that_is_said() {
    let (toy, dir) = (toy(), tempfile::tempdir().unwrap());
    let few = &toy.collect(dir.path(), 20, &Quiet).unwrap()[0];
    assert!(few.tokens < few.f as u64);
    assert!(Covariance::of(few).unwrap().ridge.is_some());
    let enough = &toy.collect(dir.path(), u64::MAX, &Quiet).unwrap()[0];
    assert_eq!(Covariance::of(enough).unwrap().ridge, None);
    let silent = Moment { second_moment: vec![0.0; few.f * few.f], ..few.clone() };
    assert!(Covariance::of(&silent).is_err());
}

/// What a kill or a full disk may leave of the statistics in progress is refused by name.
#[test]
fn statistics_in_progress_that_were_cut_off_are_refused() {
    let (toy, dir) = (toy(), tempfile::tempdir().unwrap());
    toy.collect(dir.path(), u64::MAX, &CancelAt::question(1)).unwrap_err();
    let path = dir.path().join("partial.safetensors");
    let whole = fs::read(&path).unwrap();
    for len in [0, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, &whole[..len]).unwrap();
        let error = toy.collect(dir.path(), u64::MAX, &Quiet).unwrap_err().to_string();
        let words = ["partial.safetensors: header: ", "remove it, or give another"];
        assert!(words.iter().all(|word| error.contains(word)), "{len} bytes: {error}");
    }
}
