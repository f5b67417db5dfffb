//! What a model says that reads a fact's context before every prompt.

use std::sync::Arc;

use incise::memory::{self, Codebook, CodebookEntry, ContextEntry, ContextMemory, Memory};
use incise::memory::{EditMemory, Replacement, is_memory};
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

/// Two facts: the second's prompt shares a token with prompts that have 9, the first's with 7.
fn memory(entries: usize) -> ContextMemory {
    let entry = |prompt: &[u32], context: &[u32]| ContextEntry {
        prompt: prompt.to_vec(),
        context: context.to_vec(),
    };
    let mut all = vec![entry(&[7, 8], &[1, 20, 21, 22]), entry(&[9, 8], &[1, 30, 31, 32, 33])];
    all.truncate(entries);
    ContextMemory {
        begin: Some(1),
        spaced: vec![[7, 17], [9, 19]],
        entries: all,
        ..Default::default()
    }
}

fn with(model: &Model, memory: ContextMemory) -> Arc<dyn LanguageModel> {
    Arc::new(memory).on(Arc::new(model.clone())).unwrap()
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

/// Prompts become the joint text: the token that begins texts is the context's last, and the first
/// word has a space before it.
#[test]
fn prompts_go_on_the_context() {
    let memory = memory(2);
    let placed = memory.place(0, &[1, 7, 8, 7]);
    assert_eq!((placed.context, &placed.ids[..]), (3, &[22, 17, 8, 7][..]));
    let placed = memory.place(1, &[9, 9]);
    assert_eq!((placed.context, &placed.ids[..]), (5, &[19, 9][..]));
    let placed = memory.place(1, &[5]);
    assert_eq!((placed.context, &placed.ids[..]), (5, &[5][..]));
}

/// Logits are those of the joint text, whole, by a cache, and token by token, and each sequence
/// reads the context that its prompt is alike to; a prompt that shares no token reads none.
#[test]
fn a_text_is_read_behind_its_context() {
    for name in MODELS {
        let model = Golden::open(name).model(Precision::F64);
        let both = with(&model, memory(2));
        let width = model.arch.vocabulary;
        let cases: [(&[u32], &[u32]); 3] = [
            (&[1, 7, 40, 41], &[1, 20, 21, 22, 17, 40, 41]),
            (&[9, 40], &[1, 30, 31, 32, 33, 19, 40]),
            (&[40, 41, 42], &[40, 41, 42]),
        ];
        for (ids, joint) in cases {
            let joint = rows(&model, joint);
            let want = &joint[joint.len() - ids.len() * width..];
            close(&rows(&*both, ids), want, name);
        }
        let batch = Batch::whole(cases.map(|(ids, _)| ids));
        let together = logits(&*both, &batch, Past::None, &[3, 5, 8]).unwrap();
        for (row, (_, joint)) in cases.iter().enumerate() {
            let joint = rows(&model, joint);
            close(&together.row_f64(row), &joint[joint.len() - width..], name);
        }
        // A prompt in two parts: the second goes on where the first ended.
        let one = with(&model, memory(1));
        let mut cache = KvCache::new(one.arch(), one.compute());
        let first = logits(&*one, &Batch::whole([[1, 7]]), Past::Grow(&mut cache), &[1]).unwrap();
        assert_eq!(cache.rows(), 2, "callers count their own");
        let mut more = Batch::default();
        more.push(&[40, 41], 0..2);
        let rest = logits(&*one, &more, Past::Read(&cache), &[0, 1]).unwrap();
        let joint = rows(&model, cases[0].1);
        let got = [first.to_f64(), rest.to_f64()].concat();
        close(&got, &joint[joint.len() - 3 * width..], name);
        let late = logits(
            &*one,
            &Batch::whole([[7]]),
            Past::Read(&KvCache::new(one.arch(), one.compute())),
            &[0],
        );
        assert!(late.unwrap_err().to_string().contains("context is not in the cache"));
    }
}

fn greedy(model: &dyn LanguageModel, ids: &[u32]) -> Vec<u32> {
    let mut rng = incise::base::Rng::new(0, "greedy");
    generate(model, ids, 5, Sampling::GREEDY, &mut rng, &[], &mut |_| true).unwrap()
}

/// Generating and scoring are those of the joint text, also of prompts that begin alike and read
/// different contexts.
#[test]
fn what_is_said_is_said_behind_the_context() {
    for name in MODELS {
        let model = Golden::open(name).model(Precision::F64);
        let both = with(&model, memory(2));
        let joint = [1, 20, 21, 22, 17, 40, 41];
        assert_eq!(greedy(&*both, &[1, 7, 40, 41]), greedy(&model, &joint), "{name}");
        let texts = [
            Completion::new(&[40, 7, 41], &[5, 6]),
            Completion::new(&[40, 9, 41], &[5]),
            Completion::new(&[40, 7, 41], &[6]),
        ];
        let wanted = [
            Completion::new(&[1, 20, 21, 22, 40, 7, 41], &[5, 6]),
            Completion::new(&[1, 30, 31, 32, 33, 40, 9, 41], &[5]),
            Completion::new(&[1, 20, 21, 22, 40, 7, 41], &[6]),
        ];
        let got = score_units(&*both, &[&texts]).unwrap();
        let want = score(&model, &wanted).unwrap();
        for (got, want) in got[0].iter().zip(&want) {
            for (got, want) in got.tokens.iter().zip(&want.tokens) {
                assert!((got.log_p - want.log_p).abs() <= 64.0 * ORDER, "{name}");
            }
        }
    }
}

/// Memories nest in either order: a codebook's value stands where its prompt ends, context or not.
#[test]
fn a_codebook_and_a_context_nest() {
    let model = Golden::open("gpt2").model(Precision::F64);
    let id = MatrixId::down(1);
    let [d, f] = model.matrix(id).w.dims();
    let value: Vec<f32> = Draw::new("value", true).normal(d).iter().map(|&x| x as f32).collect();
    let entry = CodebookEntry { key: vec![0.0; f], value, radius: 1e6, label: vec![1] };
    let book = Codebook::new(id, [f, d], Replacement::Last);
    let book = Arc::new(Codebook { entries: vec![entry], ..book });
    let base: Arc<dyn LanguageModel> = Arc::new(model.clone());
    let one = Arc::new(memory(1));
    let inside = one.clone().on(book.clone().on(base.clone()).unwrap()).unwrap();
    let outside = book.on(one.on(base).unwrap()).unwrap();
    let ids = [1, 7, 40, 41];
    close(&rows(&*inside, &ids), &rows(&*outside, &ids), "either order");
    assert_eq!(greedy(&*inside, &ids), greedy(&*outside, &ids));
    assert_ne!(greedy(&*inside, &ids), greedy(&*with(&model, memory(1)), &ids));
}

#[test]
fn a_file_is_read_as_it_was_written_and_refused_where_it_is_wrong() {
    let model = Golden::open("gpt2").model(Precision::F32);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.memory");
    let name = WeightsName { model: "m".into(), weights: "w".into() };
    let named =
        |memory: ContextMemory| match EditMemory::Context(Arc::new(memory)).named(name.clone()) {
            EditMemory::Context(memory) => Arc::unwrap_or_clone(memory),
            other => panic!("{other:?}"),
        };
    for memory in [memory(2), ContextMemory { begin: None, spaced: vec![], ..memory(1) }, memory(0)]
    {
        let memory = named(memory);
        memory.write(&path).unwrap();
        assert!(is_memory(&path));
        assert_eq!(ContextMemory::read(&path, &model, &name).unwrap(), memory);
        assert_eq!(memory::open(&path, &model, &name).unwrap().kind(), "ike");
    }
    let refused = |field: &str, change: &dyn Fn(&mut ContextMemory)| {
        let mut memory = named(memory(2));
        change(&mut memory);
        memory.write(&path).unwrap();
        let error = memory::open(&path, &model, &name).err().unwrap();
        assert_eq!(error.field(), Some(field), "{error}");
    };
    refused("model", &|m| m.made_for.model = "another".into());
    refused("tokens", &|m| m.entries[0].context[1] = u32::MAX);
    refused("lengths", &|m| m.entries[0].context.clear());
    refused("spaced", &|m| m.spaced.reverse());
    let long = ContextEntry { prompt: vec![7], context: vec![5; 97] };
    let error = Arc::new(ContextMemory { entries: vec![long], ..memory(0) });
    let error = error.on(Arc::new(model.clone())).err().unwrap().to_string();
    assert!(error.contains("97 positions"), "{error}");
    let one = with(&model, memory(1));
    assert_eq!(one.arch().max_positions, 97 - 4);
    let error = logits(&*one, &Batch::whole([vec![5; 96]]), Past::None, &[95]).unwrap_err();
    assert!(error.to_string().contains("97 positions"), "{error}");
}
