//! What a model says that has a codebook beside it.

use std::sync::Arc;

use incise::memory::{Codebook, CodebookEntry, Memory, Replacement};
use incise::model::completion::Completion;
use incise::model::generate::{Sampling, generate};
use incise::model::language_model::logits;
use incise::model::score::{read, score};
use incise::model::site::Look;
use incise::model::{At, Batch, KvCache, LanguageModel, MatrixId, Model, Past, Site};
use incise::tensor::{Precision, Tensor};

use crate::support::budget::{U64, off};
use crate::support::golden::{Golden, top};
use crate::support::toy::Draw;
use crate::support::twin;

const MODELS: [&str; 3] = ["gpt2", "gptj", "llama-tied"];
/// Two f64 passes that add in another order, relative to the largest logit: of 3 layers with some
/// 10 sums of at most 128 numbers each, every number may lose a rounding, in each of the two.
const ORDER: f64 = 2.0 * 3.0 * 10.0 * 128.0 * U64;
const EVERY: [Replacement; 3] = [Replacement::Last, Replacement::Before, Replacement::All];

/// A codebook at a layer whose only entry in reach is a prompt's.
fn book(model: &Model, layer: usize, prompt: &[u32], replacement: Replacement) -> Codebook {
    let [d, f] = model.matrix(MatrixId::down(layer)).w.dims();
    let key = read(model, &[prompt], Site { layer, at: At::KEY }).unwrap().row_f64(0);
    let mut draw = Draw::new("values", true);
    let mut value = || draw.normal(d).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
    let far = vec![100.0; f];
    let key: Vec<f32> = key.into_iter().map(|x| x as f32).collect();
    let entry = |key, value| CodebookEntry { key, value, radius: 1e-3, label: vec![1] };
    let entries = vec![entry(far, value()), entry(key, value())];
    let book = Codebook::new(MatrixId::down(layer), [f, d], replacement);
    Codebook { entries, ..book }
}

fn with(model: &Model, book: &Codebook) -> Arc<dyn LanguageModel> {
    Arc::new(book.clone()).on(Arc::new(model.clone())).unwrap()
}

/// The rows that are replaced in a text whose prompt has so many tokens, by the rule's words.
fn replaced(replacement: Replacement, prompt: usize, all: usize) -> std::ops::Range<usize> {
    match replacement {
        Replacement::Last => prompt - 1..prompt,
        Replacement::Before => 0..prompt - 1,
        Replacement::All => 0..all,
    }
}

/// Logits of a whole text whose first tokens are the prompt.
fn whole(model: &dyn LanguageModel, ids: &[u32], prompt: usize) -> Vec<f64> {
    let mut batch = Batch::whole([ids]);
    batch.set_prompt_end(0, Some(prompt - 1));
    let all: Vec<usize> = (0..ids.len()).collect();
    logits(model, &batch, Past::None, &all).unwrap().to_f64()
}

/// What a codebook changes is what the matrix gives at its tokens, and nothing else: to the bit.
#[test]
fn values_stand_where_the_replacement_says() {
    for name in MODELS {
        let golden = Golden::open(name);
        let model = golden.model(Precision::F32);
        let ids = golden.json.prompts.iter().find(|ids| ids.len() > 5).unwrap();
        let prompt = ids.len() - 2;
        for replacement in EVERY {
            let book = book(&model, 0, &ids[..prompt], replacement);
            let value: Vec<f64> = book.entries[1].value.iter().map(|&x| x.into()).collect();
            let rows = replaced(replacement, prompt, ids.len());
            let look = |_, shown: &mut Tensor| {
                let mut all = shown.to_f64();
                all[rows.start * value.len()..rows.end * value.len()]
                    .chunks_mut(value.len())
                    .for_each(|row| row.copy_from_slice(&value));
                *shown = Tensor::of(Precision::F32, shown.shape(), &all);
            };
            let site = Site { layer: 0, at: At::VALUE };
            let mut hook = Look { sites: vec![site], look };
            let all: Vec<usize> = (0..ids.len()).collect();
            let batch = Batch::whole([ids]);
            let want = model.run(&batch, &mut Past::None, &all, &mut hook).unwrap().to_f64();
            let got = whole(&*with(&model, &book), ids, prompt);
            assert_eq!(got, want, "{name}, {replacement:?}");
            assert_ne!(got, whole(&model, ids, prompt), "{name}, {replacement:?}");
        }
    }
}

/// A prompt that is near no key is taken as without the codebook, to the bit.
#[test]
fn far_prompts_have_the_bits_of_the_model() {
    let golden = Golden::open("llama-tied");
    let model = golden.model(Precision::F32);
    let ids = golden.json.prompts.iter().find(|ids| ids.len() > 5).unwrap();
    for replacement in EVERY {
        let book = book(&model, 1, &ids[..3], replacement);
        let got = whole(&*with(&model, &book), ids, ids.len());
        assert_eq!(got, whole(&model, ids, ids.len()));
    }
}

/// Generating with a cache decides at the prompt's end, and keeps it: as whole passes do that are
/// told where the prompt ends.
#[test]
fn a_choice_is_kept_for_its_sequence() {
    for name in MODELS {
        let golden = Golden::open(name);
        let model = golden.model(Precision::F64);
        let prompt = golden.json.prompts.iter().find(|ids| ids.len() > 3).unwrap();
        for replacement in EVERY {
            let with = with(&model, &book(&model, 0, prompt, replacement));
            let mut ids = prompt.clone();
            let mut cache = KvCache::new(&model.arch, &model.compute);
            let mut past = 0;
            for _ in 0..4 {
                let mut batch = Batch::default();
                batch.push(&ids[past..], 0..past);
                let last = [ids.len() - past - 1];
                let z = logits(&*with, &batch, Past::Grow(&mut cache), &last).unwrap().to_f64();
                let want = whole(&*with, &ids, prompt.len());
                let want = &want[want.len() - z.len()..];
                let gap = off(&z, want);
                assert!(gap <= ORDER * top(want), "{name}, {replacement:?}: {gap:e}");
                past = ids.len();
                let likeliest = (0..z.len()).max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap();
                ids.push(likeliest as u32);
            }
            let mut rng = incise::base::Rng::new(0, "nothing is drawn");
            let said = generate(&*with, prompt, 4, Sampling::GREEDY, &mut rng, &[], &mut |_| true);
            assert_eq!(said.unwrap(), ids[prompt.len()..], "{name}, {replacement:?}");
        }
    }
}

/// What is chosen at a prompt's end cannot go back to tokens of a pass before.
#[test]
fn a_prompt_whose_first_tokens_are_replaced_comes_in_one_pass() {
    let golden = Golden::open("gpt2");
    let model = golden.model(Precision::F64);
    let prompt = golden.json.prompts.iter().find(|ids| ids.len() > 3).unwrap();
    for replacement in EVERY {
        let with = with(&model, &book(&model, 0, prompt, replacement));
        let mut cache = KvCache::new(&model.arch, &model.compute);
        let (first, second) = prompt.split_at(2);
        logits(&*with, &Batch::whole([first]), Past::Grow(&mut cache), &[]).unwrap();
        let mut rest = Batch::default();
        rest.push(second, 0..2);
        rest.set_prompt_end(0, Some(second.len() - 1));
        let last = [second.len() - 1];
        let said = logits(&*with, &rest, Past::Grow(&mut cache), &last);
        match replacement {
            Replacement::Last => {
                let want = whole(&*with, prompt, prompt.len());
                let z = said.unwrap().to_f64();
                let gap = off(&z, &want[want.len() - z.len()..]);
                assert!(gap <= ORDER * top(&want), "{gap:e}");
            }
            Replacement::Before | Replacement::All => {
                let error = said.err().unwrap().to_string();
                assert!(error.contains("in one pass"), "{error}");
            }
        }
    }
}

/// A candidate is scored as what follows the prompt, not as part of it.
#[test]
fn scoring_knows_where_the_prompt_ends() {
    let golden = Golden::open("gpt2");
    let model = golden.model(Precision::F64);
    let prompt = golden.json.prompts.iter().find(|ids| ids.len() > 3).unwrap();
    let with = with(&model, &book(&model, 0, prompt, Replacement::Last));
    let candidate = [3, 1, 4];
    let text = Completion::new(prompt, &candidate);
    let log_p = |model: &dyn LanguageModel| {
        let score = score(model, std::slice::from_ref(&text)).unwrap().remove(0);
        score.tokens.iter().map(|token| token.log_p).collect::<Vec<_>>()
    };
    let z = whole(&*with, &text.read, prompt.len());
    let v = model.arch.vocabulary;
    for (t, (&id, got)) in candidate.iter().zip(&log_p(&*with)).enumerate() {
        let row = &z[(prompt.len() - 1 + t) * v..][..v];
        let sum: f64 = row.iter().map(|z| z.exp()).sum();
        assert!((got - (row[id as usize] - sum.ln())).abs() < ORDER * top(&z));
    }
    assert_ne!(log_p(&*with), log_p(&model));
}

/// The one attached last reads what the others left, and at one place it has the last word.
#[test]
fn memories_nest() {
    let golden = Golden::open("gpt2");
    let model = golden.model(Precision::F32);
    let ids = golden.json.prompts.iter().find(|ids| ids.len() > 3).unwrap();
    let lower = book(&model, 0, ids, Replacement::Last);
    let mut same = lower.clone();
    same.entries[1].value.iter_mut().for_each(|x| *x += 1.0);
    let both = Arc::new(same.clone()).on(with(&model, &lower)).unwrap();
    let n = ids.len();
    assert_eq!(whole(&*both, ids, n), whole(&*with(&model, &same), ids, n));
    let upper = book(&model, 1, ids, Replacement::Last);
    let both = Arc::new(upper.clone()).on(with(&model, &lower)).unwrap();
    assert_eq!(whole(&*both, ids, n), whole(&*with(&model, &lower), ids, n), "out of reach now");
    let key = read(&*with(&model, &lower), &[ids], Site { layer: 1, at: At::KEY }).unwrap();
    let mut moved = upper;
    moved.entries[1].key = key.row_f64(0).into_iter().map(|x| x as f32).collect();
    let both = Arc::new(moved).on(with(&model, &lower)).unwrap();
    assert_ne!(whole(&*both, ids, n), whole(&*with(&model, &lower), ids, n));
}

#[test]
fn devices_look_up_too() {
    let test = "memory::codebook::devices_look_up_too";
    let Some(engine) = twin::engine(test) else { return };
    let golden = Golden::open("llama-tied");
    let (host, device) = (golden.model(Precision::F32), golden.model(engine));
    let prompt = golden.json.prompts.iter().find(|ids| ids.len() > 3).unwrap();
    for replacement in EVERY {
        let mut book = book(&host, 0, prompt, replacement);
        book.entries[1].radius = 0.5; // activations there may be bf16
        let [z, want] =
            [&device, &host].map(|model| whole(&*with(model, &book), prompt, prompt.len()));
        let base = whole(&host, prompt, prompt.len());
        let (gap, moved) = (off(&z, &want), off(&base, &want));
        assert!(
            gap < moved / 8.0,
            "{replacement:?}: off by {gap:e}, and the value moves {moved:e}"
        );
        let say = |model: &Model| {
            let mut rng = incise::base::Rng::new(0, "nothing is drawn");
            let with = with(model, &book);
            generate(&*with, prompt, 2, Sampling::GREEDY, &mut rng, &[], &mut |_| true).unwrap()
        };
        assert_eq!(say(&device), say(&host), "{replacement:?}");
    }
}
