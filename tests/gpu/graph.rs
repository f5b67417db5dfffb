//! Recordings: that they do what they recorded, and keep what they need.

use incise::gpu::Engine;
use incise::gpu::graph::Repeated;
use incise::gpu::launch::Elem;
use incise::ops::rows::{self, Index};
use incise::tensor::{Compute, Tensor};

use crate::support::toy::{Draw, all_held, weight};
use crate::support::twin;

/// x (3, 2) += rows 2, 0, 1 of itself, by way of arrays that come and go.
fn step(x: &mut Tensor, index: &Index) {
    let mut picked = Tensor::zeros(x.compute(), x.shape());
    rows::gather(x, index, &mut picked);
    let mut twice = picked.clone();
    rows::add(&mut twice, &picked);
    drop(picked);
    let more = twice.clone();
    rows::add(x, &more);
}

#[test]
fn a_replay_does_what_was_recorded() {
    let Some(engine) = twin::engine("gpu::graph::a_replay_does_what_was_recorded") else { return };
    let compute: Compute = engine.clone().into();
    let index = Index::new(&compute, [2, 0, 1]);
    let start = || Tensor::of(&compute, &[3, 2], &[1.0, 2.0, 3.0, 5.0, 8.0, 13.0]);
    let (mut x, mut want) = (start(), start());
    let used = engine.memory().used;
    let mut repeated = Repeated::default();
    for (run, replays) in [(1, 0), (2, 1), (3, 2), (4, 3)] {
        repeated.run(Some(&engine), || step(&mut x, &index));
        step(&mut want, &index);
        // What others take in between is not the recording's memory.
        let other = twin::up(&engine, Elem::F32, &[7.0; 6]);
        assert_eq!(x.to_f64(), want.to_f64(), "run {run}");
        assert_eq!(twin::down(&other), [7.0; 6], "run {run}");
        assert_eq!(engine.replays(), replays, "run {run}");
    }
    assert!(engine.memory().used > used, "its arrays are held");
    repeated.changed();
    assert_eq!(engine.memory().used, used, "and given back");
    repeated.run(Some(&engine), || step(&mut x, &index));
    step(&mut want, &index);
    assert_eq!((x.to_f64(), engine.replays()), (want.to_f64(), 3), "another step begins anew");
}

/// A step that finds no room while it is recorded is run as it is, and no weight makes room for it.
#[test]
fn without_room_nothing_is_recorded() {
    let Some(engine) = twin::engine("gpu::graph::without_room_nothing_is_recorded") else { return };
    let (mut repeated, compute) = (Repeated::default(), Compute::from(engine.clone()));
    let (weight, _) = weight(&mut Draw::new("no room", true), [8, 8], all_held()[0]);
    drop(weight.on(&engine)); // it stays until its room is needed
    let used = engine.memory().used;
    engine.cap(used);
    let mut runs = 0;
    for _ in 0..3 {
        repeated.run(Some(&engine), || {
            runs += 1;
            if runs == 2 {
                Tensor::zeros(&compute, &[1]);
            }
        });
    }
    assert_eq!((runs, engine.replays()), (4, 0), "tried once, then run as it is");
    assert!(used > 0 && engine.memory().used == used, "the weight is there");
}

/// Where there is none of its own, a host only runs.
#[test]
fn a_host_runs_every_time() {
    let (mut repeated, mut runs) = (Repeated::default(), 0);
    for _ in 0..3 {
        repeated.run(None::<&Engine>, || runs += 1);
    }
    assert_eq!(runs, 3);
}
