//! What a model says beside which another answers prompts about facts.

use std::sync::Arc;

use incise::base::Rng;
use incise::memory::serac::SCOPE_WIDTH;
use incise::memory::{
    self, Codebook, CodebookEntry, ContextEntry, ContextMemory, EditMemory, Memory, Replacement,
    SeracMemory, is_memory,
};
use incise::model::completion::Completion;
use incise::model::generate::{Sampling, generate};
use incise::model::language_model::logits;
use incise::model::lineage::WeightsName;
use incise::model::score::{score, score_units};
use incise::model::{Batch, KvCache, LanguageModel, MatrixId, Model, Past};
use incise::tensor::Precision;

use crate::support::budget::U64;
use crate::support::golden::{Golden, top};
use crate::support::toy::Draw;

const MODELS: [&str; 3] = ["gpt2", "gptj", "llama-tied"];
/// As in `codebook.rs`: two f64 passes that add in another order, relative to the largest logit.
const ORDER: f64 = 2.0 * 3.0 * 10.0 * 128.0 * U64;

const FACTS: [(&[u32], &[u32]); 2] = [(&[1, 7, 8], &[20, 21]), (&[9, 8], &[30])];
/// About the first fact, about the second, about none.
const OWN: [&[u32]; 3] = [&[1, 7, 8], &[9, 8], &[40, 41, 42, 43]];

fn drawn(name: &str, n: usize) -> Vec<f32> {
    Draw::new(name, true).normal(n).iter().map(|&x| x as f32).collect()
}

/// Two facts, and a counterfactual model of which two matrices are others. M is so large that a
/// prompt is about a fact only where it is the fact's own.
fn memory(model: &Model) -> SeracMemory {
    let entry = |(prompt, target): &(&[u32], &[u32])| ContextEntry {
        prompt: prompt.to_vec(),
        context: [*prompt, *target].concat(),
    };
    let facts = ContextMemory {
        begin: Some(1),
        spaced: vec![[7, 17], [9, 19]],
        entries: FACTS.iter().map(entry).collect(),
        ..Default::default()
    };
    let [out, inner] = model.matrix(MatrixId::down(1)).w.dims();
    let [up_out, up_inner] = model.matrix(MatrixId::new(2, incise::Matrix::Up)).w.dims();
    let matrices = [
        (MatrixId::down(1), ([out, inner], drawn("down", out * inner))),
        (
            MatrixId::new(2, incise::Matrix::Up),
            ([up_out, up_inner], drawn("up", up_out * up_inner)),
        ),
    ];
    let scope = drawn("scope", SCOPE_WIDTH * model.arch.width);
    let scope = scope.into_iter().map(|x| 100.0 * x).collect();
    let made_for = WeightsName::default();
    let matrices = matrices.into_iter().collect();
    let mut memory = SeracMemory { made_for, facts, keys: vec![], scope, matrices };
    let points = memory.points(model, &FACTS.map(|(prompt, _)| prompt)).unwrap();
    memory.keys = points.into_iter().flatten().map(|x| x as f32).collect();
    memory
}

fn with(model: &Model, memory: SeracMemory) -> Arc<dyn LanguageModel> {
    Arc::new(memory).on(Arc::new(model.clone())).unwrap()
}

/// The counterfactual model by itself.
fn counterfactual(model: &Model) -> Model {
    let memory = memory(model);
    let with = |model: Model, (id, (_, w)): (&MatrixId, &([usize; 2], Vec<f32>))| {
        model.with_values(*id, w.iter().map(|&w| w.into()).collect())
    };
    memory.matrices.iter().fold(model.clone(), with)
}

/// What the model reads of a text that begins with one of `OWN`.
fn behind(which: usize, rest: &[u32]) -> Vec<u32> {
    match which {
        0 => [&[1, 7, 8, 20, 21, 17, 8], rest].concat(),
        1 => [&[9, 8, 30, 19, 8], rest].concat(),
        _ => [OWN[2], rest].concat(),
    }
}

fn rows(model: &dyn LanguageModel, ids: &[u32]) -> Vec<f64> {
    let all: Vec<usize> = (0..ids.len()).collect();
    logits(model, &Batch::whole([ids]), Past::None, &all).unwrap().to_f64()
}

fn close(got: &[f64], want: &[f64], what: &str) {
    let bound = ORDER * top(want);
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(got.len() == want.len() && worst <= bound, "{what}: {worst:e}, {bound:e}");
}

/// Logits are the counterfactual model's behind the fact, and the base's to the byte elsewhere:
/// each by itself, and all in one batch, of which some rows are read, a few at a time.
#[test]
fn a_prompt_about_a_fact_is_answered_by_the_other_model() {
    for name in MODELS {
        let model = Golden::open(name).model(Precision::F64);
        let (both, other) = (with(&model, memory(&model)), counterfactual(&model));
        let width = model.arch.vocabulary;
        for (which, ids) in OWN.into_iter().enumerate() {
            let got = rows(&*both, ids);
            if which == 2 {
                assert_eq!(got, rows(&model, ids), "{name}");
                continue;
            }
            let want = rows(&other, &behind(which, &[]));
            close(&got, &want[want.len() - ids.len() * width..], name);
        }
        let batch = Batch::whole(OWN);
        let read = [0, 2, 2, 4, 5, 8];
        let (mut got, mut past) = (Vec::new(), Past::None);
        let hook = &mut incise::model::NoHook;
        both.run_in_chunks(&batch, &mut past, (&read, 2), hook, &mut |z| {
            got.extend(z.to_f64());
            Ok(true)
        })
        .unwrap();
        let own = [0, 1].map(|which| rows(&other, &behind(which, &[])));
        let base = rows(&model, OWN[2]);
        let row = |all: &[f64], from_end: usize| {
            let end = all.len() - from_end * width;
            all[end - width..end].to_vec()
        };
        let mut want = row(&own[0], 2);
        want.extend([row(&own[0], 0), row(&own[0], 0), row(&own[1], 0)].concat());
        want.extend([row(&base, 3), row(&base, 0)].concat());
        close(&got, &want, name);
    }
}

fn greedy(model: &dyn LanguageModel, ids: &[u32]) -> Vec<u32> {
    let mut rng = Rng::new(0, "greedy");
    generate(model, ids, 6, Sampling::GREEDY, &mut rng, &[], &mut |_| true).unwrap()
}

/// A prompt decides once: what is said token by token, and scored after a shared beginning, is the
/// counterfactual model's of one text.
#[test]
fn what_a_prompt_decides_holds_for_its_sequence() {
    for name in MODELS {
        let model = Golden::open(name).model(Precision::F64);
        let (both, other) = (with(&model, memory(&model)), counterfactual(&model));
        for (which, own) in OWN.into_iter().enumerate().take(2) {
            assert_eq!(greedy(&*both, own), greedy(&other, &behind(which, &[])), "{name}");
        }
        assert_eq!(greedy(&*both, OWN[2]), greedy(&model, OWN[2]), "{name}");
        let targets: [&[u32]; 3] = [&[5, 6, 7], &[5], &[6, 2]];
        for (which, prompt) in OWN.into_iter().enumerate() {
            let texts = targets.map(|target| Completion::new(prompt, target));
            let got = score_units(&*both, &[&texts]).unwrap();
            let plain = targets.map(|target| Completion::new(&behind(which, &[]), target));
            let base: &dyn LanguageModel = if which < 2 { &other } else { &model };
            for (got, want) in got[0].iter().zip(score(base, &plain).unwrap()) {
                for (got, want) in got.tokens.iter().zip(&want.tokens) {
                    assert!((got.log_p - want.log_p).abs() <= 64.0 * ORDER, "{name}");
                }
            }
        }
        // Two sequences begin together, and each goes on from its own rows.
        let mut cache = KvCache::new(both.arch(), both.compute());
        let begun = Batch::whole([OWN[1], OWN[2]]);
        logits(&*both, &begun, Past::Grow(&mut cache), &[1, 5]).unwrap();
        assert_eq!(cache.rows(), 6, "callers count their own");
        let mut more = Batch::default();
        more.push(&[50, 51], 0..2);
        more.push(&[50], 2..6);
        let got = logits(&*both, &more, Past::Read(&cache), &[0, 1, 2]).unwrap().to_f64();
        let width = model.arch.vocabulary;
        let want = rows(&other, &behind(1, &[50, 51]));
        close(&got[..2 * width], &want[want.len() - 2 * width..], name);
        let want = rows(&model, &behind(2, &[50]));
        close(&got[2 * width..], &want[want.len() - width..], name);
        let mut apart = Batch::default();
        apart.push(&[50], 1..2);
        let error = logits(&*both, &apart, Past::Read(&cache), &[0]).unwrap_err();
        assert!(error.to_string().contains("in pieces"), "{error}");
    }
}

/// Memories nest: what is about no fact reaches the memory inside, and one outside that puts tokens
/// before a prompt is refused, for the prompt does not begin its sequence.
#[test]
fn other_memories_nest() {
    let model = Golden::open("gpt2").model(Precision::F64);
    let id = MatrixId::down(1);
    let [d, f] = model.matrix(id).w.dims();
    let entry =
        CodebookEntry { key: vec![0.0; f], value: drawn("value", d), radius: 1e6, label: vec![1] };
    let book = Codebook::new(id, [f, d], Replacement::Last);
    let book = Arc::new(Codebook { entries: vec![entry], ..book });
    let base: Arc<dyn LanguageModel> = Arc::new(model.clone());
    let on_book = book.clone().on(base.clone()).unwrap();
    let both = Arc::new(memory(&model)).on(on_book.clone()).unwrap();
    assert_eq!(rows(&*both, OWN[2]), rows(&*on_book, OWN[2]));
    close(&rows(&*both, OWN[1]), &rows(&*with(&model, memory(&model)), OWN[1]), "inside");
    assert_eq!(greedy(&*both, OWN[0]), greedy(&*with(&model, memory(&model)), OWN[0]));
    let context = ContextEntry { prompt: vec![7], context: vec![1, 30, 31] };
    let context = ContextMemory { entries: vec![context], ..Default::default() };
    let inside = Arc::new(context.clone()).on(base.clone()).unwrap();
    let both = Arc::new(memory(&model)).on(inside.clone()).unwrap();
    assert_eq!(greedy(&*both, OWN[2]), greedy(&*inside, OWN[2]));
    assert_eq!(greedy(&*both, OWN[0]), greedy(&*with(&model, memory(&model)), OWN[0]));
    let outside = Arc::new(context).on(with(&model, memory(&model))).unwrap();
    let error = logits(&*outside, &Batch::whole([OWN[0]]), Past::None, &[2]).unwrap_err();
    assert!(error.to_string().contains("attach this memory last"), "{error}");
}

#[test]
fn a_file_is_read_as_it_was_written_and_refused_where_it_is_wrong() {
    let model = Golden::open("gpt2").model(Precision::F32);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.memory");
    let name = WeightsName { model: "m".into(), weights: "w".into() };
    let named = |memory: SeracMemory| match EditMemory::Serac(Arc::new(memory)).named(name.clone())
    {
        EditMemory::Serac(memory) => Arc::unwrap_or_clone(memory),
        other => panic!("{other:?}"),
    };
    let empty = SeracMemory { keys: vec![], facts: Default::default(), ..memory(&model) };
    for memory in [memory(&model), empty] {
        let memory = named(memory);
        memory.write(&path).unwrap();
        assert!(is_memory(&path));
        assert!(SeracMemory::read(&path, &model, &name).unwrap() == memory);
        assert_eq!(memory::open(&path, &model, &name).unwrap().kind(), "serac");
    }
    let refused = |field: &str, change: &dyn Fn(&mut SeracMemory)| {
        let mut memory = named(memory(&model));
        change(&mut memory);
        memory.write(&path).unwrap();
        let error = memory::open(&path, &model, &name).err().unwrap();
        assert_eq!(error.field(), Some(field), "{error}");
    };
    refused("model", &|m| m.made_for.model = "another".into());
    refused("weights", &|m| m.made_for.weights = "another".into());
    refused("tokens", &|m| m.facts.entries[0].context[1] = u32::MAX);
    refused("lengths", &|m| m.facts.entries[0].prompt.clear());
    refused("keys", &|m| m.keys[3] = f32::NAN);
    refused("scope", &|m| m.scope.truncate(SCOPE_WIDTH * 7));
    let gate = MatrixId::new(1, incise::Matrix::Gate); // GPT-2 has none
    refused("layers.1.gate", &|m| drop(m.matrices.insert(gate, ([1, 1], vec![0.0]))));
    let down = MatrixId::down(1);
    refused("layers.1.down", &|m| drop(m.matrices.insert(down, ([1, 1], vec![0.0]))));
    let mut long = memory(&model);
    long.facts.entries[0].context = vec![5; 97];
    let error = Arc::new(long).on(Arc::new(model.clone())).err().unwrap().to_string();
    assert!(error.contains("97 positions"), "{error}");
    assert_eq!(with(&model, memory(&model)).arch().max_positions, 97 - 5);
}
