//! What `driver.rs` runs on a planted driver, each in a process of its own.

use std::sync::{Arc, Mutex};

use incise::base::{Error, Progress, Rng, Stage, catch_device_error};
use incise::gpu::Engine;
use incise::gpu::blaslt::Shape;
use incise::gpu::graph::Repeated;
use incise::gpu::launch::{DeviceSlice, Elem};
use incise::gpu::weights::WeightSlot;
use incise::ops::rows::{self, Index};
use incise::tensor::{Compute, Tensor};

use crate::support::twin;

fn card() -> Engine {
    twin::card().expect("a planted driver")
}

/// What it warns of.
fn warnings(engine: &Engine) -> Vec<String> {
    struct Heard(Mutex<Vec<String>>);
    impl Progress for Heard {
        fn at(&self, _: Stage, _: u64, _: u64) {}
        fn warn(&self, sentence: &str) {
            self.0.lock().unwrap().push(sentence.to_owned());
        }
        fn cancelled(&self) -> bool {
            false
        }
    }
    let heard = Heard(Mutex::default());
    engine.warn(&heard);
    heard.0.into_inner().unwrap()
}

/// Rows 2, 0 and 1 of x (3, 2), downloaded.
fn gathered(engine: &Engine) -> incise::Result<Vec<f64>> {
    let compute = Compute::from(engine.clone());
    catch_device_error(|| {
        let x = Tensor::of(&compute, &[3, 2], &[1.0, 2.0, 3.0, 5.0, 8.0, 13.0]);
        let mut y = Tensor::zeros(&compute, &[3, 2]);
        rows::gather(&x, &Index::new(&compute, [2, 0, 1]), &mut y);
        Ok(y.to_f64())
    })
}

const GATHERED: [f64; 6] = [8.0, 13.0, 1.0, 2.0, 3.0, 5.0];

#[test]
#[ignore = "runs on a planted driver"]
fn a_library_refuses() {
    let card = card();
    assert!(card.blaslt().is_none() && gathered(&card).unwrap() == GATHERED);
    let libraries = card.libraries();
    let unused = libraries[0].title.as_ref().unwrap_err();
    assert!(libraries[0].name == "cuBLASLt" && unused.refused, "{libraries:?}");
    assert!(
        unused.why.contains("cuBLASLt 12.1.2") && unused.why.contains("status 1"),
        "{unused:?}"
    );
    let [said] = warnings(&card).try_into().unwrap();
    assert!(said.contains(&unused.why) && said.contains("INCISE_LIBRARIES=off"), "{said}");
    assert!(warnings(&card).is_empty(), "it is said once");
}

#[test]
#[ignore = "runs on a planted driver"]
fn libraries_are_left_alone() {
    let card = card();
    assert!(card.blaslt().is_none() && gathered(&card).unwrap() == GATHERED);
    for library in card.libraries() {
        let unused = library.title.unwrap_err();
        assert!(!unused.refused && unused.why.contains("CUDA_FORCE_PTX_JIT=1"), "{unused:?}");
    }
    assert!(warnings(&card).is_empty(), "that is as it was wished");
}

#[test]
#[ignore = "runs on a planted driver"]
fn products_of_the_head() {
    let card = card();
    let lt = card.blaslt().unwrap();
    let hold = card.hold();
    let plain = Shape { k: 8, m: 8, stride: 8, along_k: true, biased: false, narrow: false };
    for m in [50_400, 262_144] {
        let head = Shape { k: 4096, m, stride: 4096, ..plain };
        assert!(lt.session(&hold).serves(head), "{head:?}");
    }
    // More rows than were checked go in parts.
    let slice = |n: usize| DeviceSlice { at: 1 << 20, len: 8 * n, elem: Elem::F32 };
    let product = |session: &mut incise::gpu::blaslt::BlasltSession| {
        assert!(session.serves(plain));
        session.multiply(plain, false, [slice(20_000), slice(8), slice(20_000)], None);
    };
    product(&mut lt.session(&hold));
    // What is found wrong is left to our kernels.
    lt.leave_out(&hold, plain);
    assert!(!lt.session(&hold).serves(plain));
    let left: Vec<Shape> = lt.shapes().into_iter().filter(|s| !s.1).map(|s| s.0).collect();
    assert_eq!(left, [plain]);
}

#[test]
#[ignore = "runs on a planted driver"]
fn a_kernel_faults() {
    let said = gathered(&card()).unwrap_err().to_string();
    assert!(said.contains("copy of 24 bytes from the card"), "{said}");
}

#[test]
#[ignore = "runs on a planted driver"]
fn a_kernel_faults_and_is_named() {
    let said = gathered(&card()).unwrap_err().to_string();
    let named = "the card failed, gather_rows (rows.cu) for f32, [1, 1, 1] blocks of [256, 1, 1] \
                 threads: ";
    assert!(said.contains(named) && said.contains("an illegal memory access"), "{said}");
}

#[test]
#[ignore = "runs on a planted driver"]
fn no_recording_is_made() {
    let card = card();
    let compute = Compute::from(card.clone());
    let (mut x, y) = (Tensor::zeros(&compute, &[1]), Tensor::of(&compute, &[1], &[2.0]));
    for _ in 0..2 {
        let mut repeated = Repeated::default();
        (0..4).for_each(|_| repeated.run(Some(&card), || rows::add(&mut x, &y)));
    }
    assert_eq!((x.to_f64(), card.replays()), (vec![16.0], 0));
    let [said] = warnings(&card).try_into().unwrap();
    assert!(said.contains("was not recorded") && said.contains("CAPTURE_INVALIDATED"), "{said}");
}

/// Large uploads by way of two pairs, to a place that a copy enqueued before still reads.
#[test]
#[ignore = "runs on a planted driver"]
fn few_pairs_are_enough() {
    let card = card();
    let bytes = |seed: usize| -> Vec<u8> {
        (0..(70usize << 20) + 5).map(|i| (i % 251 + i / 4093 * seed) as u8).collect()
    };
    let mut copies = Vec::new();
    for seed in [1, 2] {
        let there = card.upload(Elem::U8, &bytes(seed)).unwrap();
        let mut copy = card.array(Elem::U8, there.len()).unwrap();
        copy.copy(0, &there, 0..there.len());
        copies.push((seed, copy)); // `there` is free for the next, which the copy is not done with
    }
    assert!(copies.iter().all(|(seed, copy)| copy.download() == bytes(*seed)));
}

/// Pieces that small arrays were in hold no large one; of a card that has no more memory they are
/// given back.
#[test]
#[ignore = "runs on a planted driver"]
fn memory_in_pieces_is_given_back() {
    let card = card();
    let large = 150_000_000;
    let array = |bytes| card.array(Elem::U8, bytes);
    drop(card.upload(Elem::U8, &vec![0; 1 << 20]).unwrap()); // from here on pairs take their part
    let small: Vec<_> = (0..60).map(|_| array(2_000_000).unwrap()).collect();
    assert!(large as u64 <= card.memory().limit);
    drop(small);
    drop(array(large).unwrap());
    // Where that does not help, the numbers say why.
    let all: Vec<_> = (0..70).map(|_| array(2_000_000).unwrap()).collect();
    let _every_second: Vec<_> = all.into_iter().step_by(2).collect();
    let refused = array(90_000_000).unwrap_err();
    let Error::DeviceMemory { wanted, used, limit } = refused else { panic!("{refused}") };
    assert!(used + wanted <= limit && refused.to_string().contains("in pieces"), "{refused}");
}

/// The arrays of statistics, searches and solves in the sizes of GPT-J-6B, some drawn: what is not
/// more than the limit is there, however it was cut before.
#[test]
#[ignore = "runs on a planted driver"]
fn a_whole_edit_finds_room() {
    const D: usize = 4096;
    const F: usize = 4 * D;
    const V: usize = 50_400;
    const LAYERS: usize = 28;
    const EDITED: usize = 6;
    let card = card();
    let mut rng = Rng::new(0, "a whole edit");
    let mut draw = |from: usize, to: usize| from + (rng.uniform() * (to - from) as f64) as usize;
    let slots: Vec<Arc<WeightSlot>> = (0..6 * LAYERS + 2).map(|_| Arc::default()).collect();
    let weight = |i: usize| {
        let len = if i >= 6 * LAYERS { V * D } else { D * if i % 6 < 4 { D } else { F } };
        card.resident(&slots[i], Elem::BF16, len, &mut |_, _| {}).unwrap()
    };
    let f32s = |len: usize| card.array(Elem::F32, len).unwrap();
    let f64s = |len: usize| card.array(Elem::F64, len).unwrap();
    let bf16s = |len: usize| card.array(Elem::BF16, len).unwrap();
    // A pass of n tokens: the stream, and of each layer what comes and goes.
    let pass = |n: usize, layers: usize| {
        let _x = f32s(n * D);
        for layer in 0..layers {
            let _qkvo: Vec<_> = (0..6).map(|i| (weight(6 * layer + i), f32s(n * D))).collect();
            let _key = [f32s(n * F), f32s(n * D)];
        }
    };
    // Totals of the layers, then passes.
    let totals: Vec<_> = (0..EDITED).map(|_| (f32s(F * F), f64s(F * F))).collect();
    (0..4).for_each(|_| pass(draw(2000, 8192), LAYERS));
    drop(totals);
    // Searches: what backward needs of the layers above the edited ones is kept.
    for _ in 0..12 {
        let (facts, tokens) = (draw(40, 264), draw(29, 33));
        let n = facts * tokens;
        let _slots: Vec<_> = (0..5).map(|_| f32s(facts * D)).collect();
        let _prefixes: Vec<_> = (0..2 * LAYERS).map(|_| f32s(60 * D)).collect();
        for _ in 0..2 {
            let mut kept: Vec<Vec<_>> = Vec::new();
            for layer in LAYERS - 19..LAYERS {
                let _weights: Vec<_> = (0..6).map(|i| weight(6 * layer + i)).collect();
                kept.push(
                    (0..4).map(|_| bf16s(n * D)).chain([f32s(n * D), bf16s(n * F)]).collect(),
                );
                let _passing = [bf16s(n * D), bf16s(n * F)];
            }
            let _logits = (weight(6 * LAYERS), f32s(256 * V));
            while kept.pop().is_some() {
                let _gradients = [f32s(n * F), f32s(n * D), f32s(n * D)];
            }
        }
    }
    // The systems of the layers, each followed by the residuals of the next.
    for _ in 0..EDITED {
        let n = 8000;
        drop([f64s(F * F), f64s(n * F), f64s(n * D), f64s(F * D), f64s(32 * F)]);
        pass(draw(2000, 8192), 8);
    }
}

/// Memory that a step needs for the first time is not got while it is recorded.
#[test]
#[ignore = "runs on a planted driver"]
fn a_step_that_takes_memory_is_recorded_later() {
    let card = card();
    let compute = Compute::from(card.clone());
    let (mut x, y) = (Tensor::zeros(&compute, &[1]), Tensor::of(&compute, &[1], &[2.0]));
    let mut repeated = Repeated::default();
    let mut step = |repeated: &mut Repeated| {
        repeated.run(Some(&card), || {
            drop(card.array(Elem::U8, 300_000_000).unwrap());
            rows::add(&mut x, &y);
        });
        card.replays()
    };
    assert_eq!([(); 4].map(|()| step(&mut repeated)), [0, 0, 1, 2]);
    assert_eq!(x.to_f64(), [8.0]);
}

/// A thread that never used the card may be the one that drops what is its.
#[test]
#[ignore = "runs on a planted driver"]
fn a_recording_is_dropped_elsewhere() {
    let card = card();
    let compute = Compute::from(card.clone());
    let (mut x, y) = (Tensor::zeros(&compute, &[1]), Tensor::of(&compute, &[1], &[2.0]));
    rows::add(&mut x, &y);
    let graph = card.record(|| rows::add(&mut x, &y)).unwrap();
    graph.replay();
    std::thread::spawn(move || drop(graph)).join().unwrap();
    assert_eq!(x.to_f64(), [4.0]);
}
