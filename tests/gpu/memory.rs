//! What is on a device: blocks of a pool, weights that come and go, arrays that find no room.

use incise::base::{DType, Error, Quiet, Rng};
use incise::edit::prompts::{FactRows, PromptRow};
use incise::edit::search::memory::SearchMemory;
use incise::edit::search::packing::shared_prefixes;
use incise::edit::search::{Push, Search, SearchFact, TargetValue, find_all};
use incise::edit::training::value::{TextSize, ValueTraining};
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::gpu::pool::Pool;
use incise::memory::Replacement;
use incise::model::Past;
use incise::model::completion::Completion;
use incise::model::generate::{Sampling, generate};
use incise::model::{
    At, Batch, KvCache, Matrix, MatrixId, Model, NoHook, Position, Run, SearchPrecision, Site, Span,
};
use incise::tensor::OnDevice;
use serde_json::{Value, json};

use crate::support::golden::Golden;
use crate::support::toy::{Draw, Held, all_held, weight};
use crate::support::twin;

#[test]
fn blocks_of_a_pool() {
    let mut pool = Pool::default();
    assert_eq!(pool.take(1), None);
    pool.add(1 << 20, Pool::piece(4096));
    let [a, b, c] = [1, 513, 1024].map(|bytes| pool.take(bytes).unwrap());
    assert_eq!([a, b, c].map(|at| at - (1 << 20)), [0, 512, 1536], "multiples of 512 bytes");
    assert_eq!(pool.take(2048), None, "1536 are left");
    pool.give(a);
    pool.give(c);
    assert_eq!(pool.take(512), Some(a), "the smallest that is large enough");
    pool.give(b);
    pool.give(a);
    assert_eq!(pool.take(4096), Some(a), "neighbours are one block again");
    // Two pieces side by side stay two.
    pool.give(a);
    pool.add((1 << 20) + Pool::piece(4096), Pool::piece(4096));
    assert_eq!(pool.take(8192), None);
}

#[test]
fn arrays_that_find_no_room() {
    let Some(engine) = twin::fastest("gpu::memory::arrays_that_find_no_room") else { return };
    engine.cap(1000);
    let mut array = engine.array(Elem::F32, 200).unwrap();
    let refused = engine.array(Elem::F32, 51).map(drop);
    assert!(matches!(refused, Err(Error::DeviceMemory { wanted: 204, used: 800, limit: 1000 })));
    assert!(array.resize(300).is_err() && array.len() == 200, "as it was");
    drop(array);
    engine.array(Elem::F32, 250).unwrap();
    let memory = engine.memory();
    assert_eq!((memory.used, memory.peak), (0, 1000));
}

#[test]
fn arrays_that_grow_keep_what_they_hold() {
    let Some(engine) = twin::fastest("gpu::memory::arrays_that_grow") else { return };
    let mut array = twin::up(&engine, Elem::F32, &[1.0, 2.0, 3.0]);
    array.resize(2).unwrap();
    array.resize(5).unwrap();
    assert_eq!(twin::down(&array), [1.0, 2.0, 0.0, 0.0, 0.0], "new elements are zero");
    let other = twin::up(&engine, Elem::F32, &[7.0, 8.0, 9.0]);
    array.copy(3, &other, 1..3);
    assert_eq!(twin::down(&array), [1.0, 2.0, 0.0, 8.0, 9.0]);
}

/// What returns a `Result` returns it.
#[test]
fn a_device_without_room_is_an_error() {
    let test = "gpu::memory::a_device_without_room_is_an_error";
    let Some(engine) = twin::fastest(test) else { return };
    let golden = Golden::open("llama-tied");
    let model = golden.model(engine.clone());
    engine.cap(engine.memory().used + 100);
    let mut rng = Rng::new(0, "unused");
    let ids = &golden.json.prompts[0];
    let text = generate(&model, ids, 1, Sampling::GREEDY, &mut rng, &[], &mut |_| true);
    assert!(matches!(text, Err(Error::DeviceMemory { .. })));
}

/// However they are stored, and in however many parts they are copied.
#[test]
fn weights_arrive_as_they_are() {
    let Some(engine) = twin::fastest("gpu::memory::weights_arrive_as_they_are") else { return };
    let mut draw = Draw::new("weights that arrive", true);
    for held in all_held().into_iter().filter(|held| !matches!(held, Held::Double)) {
        let (weight, values) = weight(&mut draw, [303, 521], held); // more than 256 KiB
        let OnDevice { w, row_stride, col_stride, .. } = weight.on(&engine);
        let at = |i: usize| i / 521 * row_stride + i % 521 * col_stride;
        let there = twin::down(&w);
        assert!(values.iter().enumerate().all(|(i, &x)| there[at(i)] == x), "{held:?}");
    }
}

/// A device too small for the weights runs the same numbers.
#[test]
fn weights_that_come_and_go() {
    let test = "gpu::memory::weights_that_come_and_go";
    let golden = Golden::open("llama-tied");
    let logits = |part: Option<u64>| {
        let engine = twin::fastest(test)?;
        let model = golden.model(engine.clone());
        part.into_iter().for_each(|bytes| engine.cap(bytes));
        let ids = &golden.json.prompts[0];
        let z = model.logits(&Batch::whole([ids]), Past::None, &[ids.len() - 1]).unwrap();
        Some((z.to_f64(), engine.memory().peak))
    };
    let Some((whole, peak)) = logits(None) else { return };
    let (streamed, most) = logits(Some(peak / 2)).unwrap();
    assert_eq!(streamed, whole);
    assert!(most <= peak / 2 && most > 0);
}

/// A prompt behind contexts that all facts share, and the row that should stay.
fn fact(draw: &mut Draw, vocabulary: usize) -> FactRows {
    let mut ids = |n: usize| (0..n).map(|_| draw.below(vocabulary) as u32).collect::<Vec<_>>();
    let (before, after, target) = (ids(5), ids(3), ids(2));
    let row = |context: usize| {
        let context = (0..context).map(|i| (7 * context + i) as u32);
        let ids = context.chain([&before[..], &after, &target[..1]].concat()).collect::<Vec<_>>();
        PromptRow { lookup: ids.len() - 5, ids }
    };
    let rewriting: Vec<PromptRow> = [0, 9, 11].map(row).into();
    let kl = PromptRow { ids: ids(4), lookup: 2 };
    FactRows { keys: rewriting.clone(), rewriting, kl, target, merged: 0 }
}

/// A search of some facts, in as much room as there shall be; their values.
pub(super) struct Searched {
    pub model: Model,
    pub facts: Vec<FactRows>,
    push: Push,
    /// After which it ends at the latest.
    steps: usize,
}

impl Searched {
    pub fn new(engine: &Engine, config: &Value, fast: bool, attention: bool) -> Searched {
        let compute = engine.clone().into();
        let mut model = Model::random(config, DType::BF16, 0, &compute).unwrap();
        if fast {
            model.search_precision = SearchPrecision::Fast;
        }
        let mut draw = Draw::new("memory of a search", false);
        let facts = (0..12).map(|_| fact(&mut draw, model.arch.vocabulary)).collect();
        let (site, loss_layer) = (Site { layer: 1, at: At::VALUE }, model.arch.layers - 1);
        Searched { push: Push { site, attention, above: 0, loss_layer }, model, facts, steps: 3 }
    }

    pub fn run(&self, room: u64) -> Vec<TargetValue> {
        self.until(f64::NEG_INFINITY, room)
    }

    /// A search ends where its loss is below `loss_tolerance`, or after so many steps.
    fn until(&self, loss_tolerance: f64, room: u64) -> Vec<TargetValue> {
        let by = Search {
            push: self.push,
            steps: self.steps,
            lr: 0.1,
            weight_decay: 0.5,
            clamp: 0.75,
            kl_factor: 0.0625,
            nll_factor: 1.0,
            anneal_nll: false,
            early_stop: 0,
            loss_tolerance,
        };
        let wanted: Vec<SearchFact> =
            self.facts.iter().map(|rows| SearchFact { id: "", rows }).collect();
        let mut values = Vec::new();
        let mut each = |fact, value| {
            values.push((fact, value));
            Ok(())
        };
        find_all(&self.model, &wanted, &by, room, &Quiet, &mut each).unwrap();
        values.sort_by_key(|(fact, _)| *fact);
        values.into_iter().map(|(_, value)| value).collect()
    }
}

/// What a search takes at most, besides the weights, and what was counted for a part of its facts.
fn searched(engine: &Engine, search: &Searched, loss_tolerance: f64, part: u64) -> (u64, u64) {
    let Searched { model, facts, push, .. } = search;
    model.logits(&Batch::whole([[0]]), Past::None, &[0]).unwrap(); // uploads the weights
    let before = engine.forget_peak();
    let shared: usize = shared_prefixes(facts).iter().map(Vec::len).sum();
    assert_eq!(shared, 20, "the contexts");
    let memory = SearchMemory::new(model, push, facts);
    let room = memory.fixed_bytes + memory.facts.iter().sum::<u64>() / part;
    search.until(loss_tolerance, room);
    (engine.memory().peak - before, room)
}

/// Parallel layers, and sequential ones.
pub(super) fn small() -> [Value; 2] {
    let gptj = json!({
        "model_type": "gptj", "n_layer": 5, "n_embd": 96, "n_head": 3, "rotary_dim": 8,
        "vocab_size": 97, "n_positions": 64, "activation_function": "gelu_new",
    });
    let gpt2 = json!({
        "model_type": "gpt2", "n_layer": 5, "n_embd": 96, "n_head": 3, "vocab_size": 97,
        "n_positions": 64,
    });
    [gptj, gpt2]
}

/// Each body takes what is said beside it, alone and in whole layers, however much is kept.
#[test]
fn a_pass_takes_what_its_bodies_say() {
    let test = "gpu::memory::a_pass_takes_what_its_bodies_say";
    let gated = |family: &str| {
        json!({
            "model_type": family, "num_hidden_layers": 3, "hidden_size": 96,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16,
            "intermediate_size": 160, "vocab_size": 97, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-6,
        })
    };
    let [gptj, gpt2] = small();
    let half = |from: usize, to: usize| {
        let place = |branch| Position { layer: 1 + branch / 2, branch: branch % 2 };
        Span::from(place(from)..place(to))
    };
    let [attention, mlp, layers] = [half(0, 1), half(1, 2), Span::from(1..3)];
    for (config, fast) in
        [(&gptj, true), (&gpt2, false), (&gated("qwen3"), true), (&gated("olmo2"), true)]
    {
        let Some(engine) = twin::engine(test) else { return };
        let searched = Searched::new(&engine, config, fast, false);
        let model = searched.model.for_search();
        let batch = Batch::whole((0..24u32).map(|i| [i; 11]));
        let n = batch.len() as u64;
        let limit = engine.memory().limit;
        let spans: &[Span] =
            if model.arch.parallel { &[layers] } else { &[attention, mlp, layers] };
        for (&span, mode) in spans.iter().flat_map(|span| [0, 1, 2].map(|mode| (span, mode))) {
            let pass = || {
                engine.cap(if mode == 2 { engine.memory().used.max(1) } else { limit });
                let mut run = match mode {
                    0 => Run::new(&model),
                    _ => Run::keeping(&model, span),
                };
                assert_eq!(model.offloads_weights(), mode == 2);
                engine.cap(limit);
                let mut x = model.embed(&batch);
                let nothing = KvCache::new(&model.arch, &model.compute);
                model.forward(&batch, span, Past::Read(&nothing), &mut x, &mut run, &mut NoHook);
                if mode > 0 {
                    let mut dx = x.like(x.shape());
                    model.backward(&batch, span, &nothing, &mut dx, &mut run, &mut NoHook);
                }
            };
            pass(); // uploads the weights
            let before = engine.forget_peak();
            pass();
            let took = engine.memory().peak - before;
            let bytes = model.bytes_a_token(span, &model.compute);
            let entries = 4 * span.layers().len() * model.arch.width;
            // A layer is run again on a copy of its stream, from the second on beside the buffers.
            let again = if span.layers().len() > 1 { 4 * model.arch.width } else { 0 };
            let a_token = match mode {
                0 => bytes.largest + bytes.forward,
                1 => bytes.saved + bytes.forward + bytes.backward,
                _ => bytes.largest + entries + again + bytes.forward + bytes.backward,
            };
            let counted = n * a_token as u64;
            let case = format!("{} {span:?} {mode}: {took} of {counted}", config["model_type"]);
            // And how the batch is packed.
            assert!(took <= counted + counted / 50 && took >= counted - counted / 50, "{case}");
        }
    }
}

/// All facts at once take what was counted; half of them at a time, and then the other half, no
/// more than half.
#[test]
fn a_search_takes_what_was_counted() {
    let test = "gpu::memory::a_search_takes_what_was_counted";
    let [gptj, gpt2] = small();
    for (config, fast) in [(&gptj, false), (&gptj, true), (&gpt2, true)] {
        for part in [1, 2] {
            let Some(engine) = twin::fastest(test) else { return };
            // The second step takes what the first does, and is recorded.
            let search = Searched { steps: 2, ..Searched::new(&engine, config, fast, false) };
            let (took, counted) = searched(&engine, &search, f64::NEG_INFINITY, part);
            let case = format!("{} fast {fast}: {took} of {counted}", config["model_type"]);
            assert!(took <= counted + counted / 10, "{case}, 1/{part} of the facts at a time");
            assert!(part > 1 || took >= counted - counted / 10, "{case}");
        }
    }
}

/// Nor where some searches end before others, and facts take their places.
#[test]
fn a_search_that_is_refilled_takes_what_was_counted() {
    let test = "gpu::memory::a_search_that_is_refilled_takes_what_was_counted";
    let [gptj, _] = small();
    let Some(engine) = twin::fastest(test) else { return };
    let search = Searched::new(&engine, &gptj, true, false);
    let mut first: Vec<f64> =
        search.run(u64::MAX).iter().map(|value| value.trace[0].total()).collect();
    first.sort_by(f64::total_cmp);
    let median = first[first.len() / 2];
    let looks: Vec<usize> =
        search.until(median, u64::MAX).iter().map(|value| value.trace.len()).collect();
    assert!(looks.contains(&1) && looks.contains(&3), "{looks:?}");
    let (took, counted) = searched(&engine, &search, median, 4);
    assert!(took <= counted + counted / 10, "{took} of {counted}");
}

/// Where weights come and go, layers are run again for backward: the same numbers, and no more
/// memory than there is.
#[test]
fn a_search_whose_weights_come_and_go() {
    let test = "gpu::memory::a_search_whose_weights_come_and_go";
    let [gptj, gpt2] = small();
    for (config, fast, attention) in [(&gptj, true, false), (&gpt2, false, true)] {
        let Some(engine) = twin::fastest(test) else { return };
        let some = |engine: &Engine| {
            let mut search = Searched::new(engine, config, fast, attention);
            search.facts.truncate(6);
            search
        };
        let resident = some(&engine);
        let want = resident.run(u64::MAX);
        assert!(!resident.model.offloads_weights() && engine.replays() > 0);

        let Some(engine) = twin::fastest(test) else { return };
        let streamed = some(&engine);
        let before = engine.memory().used;
        streamed.model.logits(&Batch::whole([[0]]), Past::None, &[0]).unwrap();
        let weights = engine.memory().used - before;
        engine.cap(before + weights / 4 * 5);
        assert!(streamed.model.offloads_weights());
        let room = streamed.model.spare().unwrap();
        assert!(streamed.run(room) == want, "{}", config["model_type"]);
        assert!(engine.memory().peak <= before + weights / 4 * 5);
        assert_eq!(engine.replays(), 0, "weights that come and go are not recorded");
    }
}

/// A value that is trained takes what was counted, whichever matrix gives it.
#[test]
fn a_value_in_training_takes_what_was_counted() {
    let test = "gpu::memory::a_value_in_training_takes_what_was_counted";
    let [gptj, gpt2] = small();
    for (config, matrix) in [(&gptj, Matrix::Down), (&gpt2, Matrix::Up), (&gpt2, Matrix::Down)] {
        let Some(engine) = twin::fastest(test) else { return };
        let model = Model::random(config, DType::BF16, 0, &engine.clone().into()).unwrap();
        let id = MatrixId::new(1, matrix);
        let training = ValueTraining { id, replacement: Replacement::All, lr: 0.1 };
        let text = Completion::new(&(0..53).collect::<Vec<_>>(), &(53..61).collect::<Vec<_>>());
        let size = TextSize { tokens: 60, target: 8 };
        let mut value = vec![0.1; model.matrix(id).w.dims()[0]];
        let mut run = || training.run(&model, &text, &mut value, 2, &Quiet).unwrap();
        run(); // uploads the weights
        let before = engine.forget_peak();
        run();
        let (took, counted) = (engine.memory().peak - before, training.bytes(&model, size));
        let case = format!("{} {matrix:?}: {took} of {counted}", config["model_type"]);
        println!("{case}");
        assert!(took <= counted + counted / 10 && took >= counted - counted / 5, "{case}");
    }
}
