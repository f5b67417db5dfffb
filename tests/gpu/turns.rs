//! Threads that use one device: each gets what it gets alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use incise::base::{DType, Rng};
use incise::gpu::graph::Repeated;
use incise::gpu::launch::Elem;
use incise::model::Past;
use incise::model::generate::{Sampling, generate};
use incise::model::{Batch, Model};
use incise::tensor::{Compute, Tensor, Weight};
use rayon::prelude::*;
use serde_json::json;

use super::memory::{Searched, small};
use crate::support::twin;

/// Logits of a prompt, and the text that goes on from it.
fn talk(model: &Model, seed: u64) -> (Vec<f64>, Vec<u32>) {
    let prompt: Vec<u32> = (0..6).map(|i| (31 * seed as u32 + 7 * i) % 97).collect();
    let z = model.logits(&Batch::whole([&prompt]), Past::None, &[5]);
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
    let mut rng = Rng::new(seed, "a talk");
    let text = generate(model, &prompt, 3, sampling, &mut rng, &[], &mut |_| true);
    (z.unwrap().to_f64(), text.unwrap())
}

/// One thread searches the values of an edit, by recorded steps, while three generate: every bit
/// is the one that each has alone.
#[test]
fn an_edit_and_three_texts_at_once() {
    let test = "gpu::turns::an_edit_and_three_texts_at_once";
    let Some(engine) = twin::fastest(test) else { return };
    let [gptj, _] = small();
    let tiny = json!({
        "model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 97,
        "n_positions": 16,
    });
    let mut search = Searched::new(&engine, &gptj, true, true);
    search.facts.truncate(4);
    let compute = engine.clone().into();
    let models = [0, 1, 1].map(|seed| Model::random(&tiny, DType::F32, seed, &compute).unwrap());
    let values = search.run(u64::MAX);
    let talks = [0, 1, 2].map(|seed| talk(&models[seed], seed as u64));
    let replays = engine.replays();
    assert!(replays > 0, "steps were replayed");

    let edits = 2;
    let done = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let texts = [0, 1, 2].map(|seed| {
            let (model, done, alone) = (&models[seed], &done, &talks[seed]);
            scope.spawn(move || {
                let mut rounds = 0;
                while rounds == 0 || !done.load(Ordering::Relaxed) {
                    assert!(talk(model, seed as u64) == *alone, "text {seed}, round {rounds}");
                    rounds += 1;
                }
                rounds
            })
        });
        for edit in 0..edits {
            assert!(search.run(u64::MAX) == values, "edit {edit}");
        }
        done.store(true, Ordering::Relaxed);
        texts.map(|text| text.join().unwrap())
    });
    assert_eq!(engine.replays() - replays, edits * replays, "as many steps were replayed");
    assert!(rounds.iter().all(|&rounds| rounds > 1), "{rounds:?}: they took turns");
}

/// Memory that another thread gives back while a recording is made is not the recording's, and
/// giving it back waits for nobody.
#[test]
fn what_another_thread_drops_is_not_recorded() {
    let test = "gpu::turns::what_another_thread_drops_is_not_recorded";
    let Some(engine) = twin::fastest(test) else { return };
    let compute = Compute::from(engine.clone());
    let mut others = [(); 2].map(|()| twin::up(&engine, Elem::F32, &[1.0; 100])).into_iter();
    let used = engine.memory().used;
    let mut repeated = Repeated::default();
    for run in 0..3 {
        repeated.run(Some(&engine), || {
            let other = others.next();
            thread::scope(|scope| drop(scope.spawn(|| drop(other))));
            assert_eq!(engine.memory().used, used - 400 * run, "nothing is freed in a hold");
            Tensor::zeros(&compute, &[7]);
        });
    }
    drop(repeated);
    assert_eq!(engine.memory().used, used - 400 * 2);
}

/// A thread that uploads a weight waits for rayon's pool, whose threads wait for the device: they
/// copy for it meanwhile.
#[test]
fn threads_of_the_pool_work_while_they_wait() {
    let test = "gpu::turns::threads_of_the_pool_work_while_they_wait";
    let Some(engine) = twin::fastest(test) else { return };
    let values: Vec<f32> = (0..1 << 18).map(|i| i as f32).collect(); // 1 MiB: four pieces of work
    let uploaded = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                let weight = Weight::dense_f32(values.clone(), 1 << 9, 1 << 9).on(&engine);
                let there = twin::down(&weight.w);
                assert!(there.iter().zip(&values).all(|(x, y)| *x == f64::from(*y)));
            }
            uploaded.store(true, Ordering::Relaxed);
        });
        (0..2 * rayon::current_num_threads()).into_par_iter().for_each(|i| {
            while !uploaded.load(Ordering::Relaxed) {
                let array = twin::up(&engine, Elem::F32, &[i as f64; 10]);
                assert_eq!(twin::down(&array), [i as f64; 10]);
            }
        });
    });
}
