//! What is on a device: blocks of a pool, weights that come and go, arrays that find no room.

use incise::base::{Error, Rng};
use incise::gpu::launch::Elem;
use incise::gpu::pool::Pool;
use incise::model::Batch;
use incise::model::decoder::Past;
use incise::model::generate::Sampling;
use incise::tensor::OnDevice;

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
    let Some(engine) = twin::engine("gpu::memory::arrays_that_find_no_room") else { return };
    engine.cap(1000);
    let mut array = engine.array(Elem::F32, 200).unwrap();
    let refused = engine.array(Elem::F32, 51).map(drop);
    assert!(matches!(refused, Err(Error::Room { wanted: 204, used: 800, limit: 1000 })));
    assert!(array.resize(300).is_err() && array.len() == 200, "as it was");
    drop(array);
    engine.array(Elem::F32, 250).unwrap();
    let memory = engine.memory();
    assert_eq!((memory.used, memory.peak), (0, 1000));
}

#[test]
fn arrays_that_grow_keep_what_they_hold() {
    let Some(engine) = twin::engine("gpu::memory::arrays_that_grow") else { return };
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
    let Some(engine) = twin::engine(test) else { return };
    let golden = Golden::open("llama-tied");
    let model = golden.model(engine.clone());
    engine.cap(engine.memory().used + 100);
    let mut rng = Rng::new(0, "unused");
    let ids = &golden.json.prompts[0];
    let text = model.generate(ids, 1, Sampling::GREEDY, &mut rng, &[], &mut |_| true);
    assert!(matches!(text, Err(Error::Room { .. })));
}

/// However they are stored, and in however many parts they are copied.
#[test]
fn weights_arrive_as_they_are() {
    let Some(engine) = twin::engine("gpu::memory::weights_arrive_as_they_are") else { return };
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
        let engine = twin::engine(test)?;
        let model = golden.model(engine.clone());
        part.into_iter().for_each(|bytes| engine.cap(bytes));
        let ids = &golden.json.prompts[0];
        let z = model.logits(&Batch::whole([ids]), Past::None, &[ids.len() - 1]);
        Some((z.to_f64(), engine.memory().peak))
    };
    let Some((whole, peak)) = logits(None) else { return };
    let (streamed, most) = logits(Some(peak / 2)).unwrap();
    assert_eq!(streamed, whole);
    assert!(most <= peak / 2 && most > 0);
}
