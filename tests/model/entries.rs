//! What every entry of a model promises: errors in place of unwinds, and use from several threads.

use incise::base::{DType, Error, Result, Rng};
use incise::model::Layer;
use incise::model::Past;
use incise::model::arch::Arch;
use incise::model::completion::Completion;
use incise::model::generate::{Sampling, generate};
use incise::model::language_model::logits_in_chunks;
use incise::model::score::{read, score};
use incise::model::{At, Batch, KvCache, Linear, Model, Run, Site, random};
use incise::store::Checkpoint;
use incise::tensor::{Compute, Tensor, Weight};
use incise::text::{Chat, Tokenizer};

use crate::support::golden::Golden;
use crate::support::twin;

/// A prompt of several tokens.
fn ids(golden: &Golden) -> &[u32] {
    golden.json.prompts.last().unwrap()
}

/// Checked by the compiler.
#[test]
fn models_may_be_shared_by_threads() {
    const fn shared<T: Send + Sync + 'static>() {}
    const {
        shared::<Model>();
        shared::<Arch>();
        shared::<Layer>();
        shared::<Linear>();
        shared::<Weight>();
        shared::<Tensor>();
        shared::<Compute>();
        shared::<Run>();
        shared::<KvCache>();
        shared::<Tokenizer>();
        shared::<Chat>();
    }
}

#[test]
fn a_device_out_of_memory_is_an_error_of_every_entry() {
    type Entry = (&'static str, fn(&Model, &[u32]) -> Result<()>);
    const ENTRIES: [Entry; 5] = [
        ("logits", |model, ids| model.logits(&Batch::whole([ids]), Past::None, &[0]).map(drop)),
        ("logits in chunks", |model, ids| logits_in_chunks(model, ids, 2, &mut |_| true)),
        ("log-probability", |model, ids| {
            score(model, &[Completion::new(&ids[1..], &ids[..1])]).map(drop)
        }),
        ("read", |model, ids| read(model, &[ids], Site { layer: 0, at: At::KEY }).map(drop)),
        ("generate", |model, ids| {
            let mut rng = Rng::new(0, "unused");
            generate(model, ids, 1, Sampling::GREEDY, &mut rng, &[], &mut |_| true).map(drop)
        }),
    ];
    let test = "model::entries::a_device_out_of_memory_is_an_error_of_every_entry";
    let Some(engine) = twin::engine(test) else { return };
    let golden = Golden::open("llama-tied");
    let model = golden.model(engine.clone());
    engine.cap(engine.memory().used + 100);
    for (name, entry) in ENTRIES {
        let result = entry(&model, ids(&golden));
        assert!(matches!(result, Err(Error::DeviceMemory { .. })), "{name}: {result:?}");
    }
    let loaded = Model::load(&Checkpoint::open(&golden.dir).unwrap(), engine.clone());
    assert!(matches!(loaded.map(drop), Err(Error::DeviceMemory { .. })));
    let config = random::config("tiny").unwrap();
    let random = Model::random(&config, DType::BF16, 0, &engine.into());
    assert!(matches!(random.map(drop), Err(Error::DeviceMemory { .. })));
}

/// The rest of the rows is not computed.
#[test]
fn logits_in_chunks_end_where_the_caller_says() {
    let golden = Golden::open("gpt2");
    let model = golden.model(incise::tensor::Precision::F32);
    let ids = ids(&golden);
    let all: Vec<usize> = (0..ids.len()).collect();
    let whole = model.logits(&Batch::whole([ids]), Past::None, &all).unwrap().to_f64();
    let collect = |most: usize| {
        let mut rows = Vec::new();
        let mut chunks = 0;
        let mut each = |z: &Tensor| {
            rows.extend(z.to_f64());
            chunks += 1;
            chunks < most
        };
        logits_in_chunks(&model, ids, 2, &mut each).unwrap();
        rows
    };
    assert!(ids.len() > 2);
    assert_eq!(collect(usize::MAX).len(), whole.len());
    assert_eq!(collect(1).len(), 2 * model.arch.vocabulary);
}
