//! Launches of `kernels/act.cu`.

use crate::gpu::kernels::act::{ActBwd, ActFwd, GatedBwd, GatedFwd, THREADS};
use crate::gpu::launch::Grid;
use crate::gpu::{Array, Engine};
use crate::ops::cpu::act::Act;

/// The kernel's number of a function.
fn number(act: Act) -> i32 {
    match act {
        Act::Relu => 0,
        Act::Gelu => 1,
        Act::GeluTanh => 2,
        Act::Silu => 3,
    }
}

/// key from up, and gate where there is one.
pub fn forward(engine: &Engine, act: Act, up: &Array, gate: Option<&Array>, key: &mut Array) {
    let grid = Grid::each(up.len(), THREADS);
    let n = up.len() as i64;
    let act = number(act);
    let up = up.read();
    let key = key.write();
    match gate {
        None => ActFwd { up, act, n, key }.launch(engine, grid),
        Some(gate) => GatedFwd { up, gate: gate.read(), act, n, key }.launch(engine, grid),
    }
}

/// dup in place of dkey, and dgate.
pub fn backward(
    engine: &Engine,
    act: Act,
    up: &Array,
    gate: Option<(&Array, &mut Array)>,
    dkey: &mut Array,
) {
    let grid = Grid::each(up.len(), THREADS);
    let n = up.len() as i64;
    let act = number(act);
    let up = up.read();
    let dkey = dkey.update();
    match gate {
        None => ActBwd { up, act, n, dkey }.launch(engine, grid),
        Some((gate, dgate)) => {
            let gate = gate.read();
            let dgate = dgate.write();
            GatedBwd { up, gate, act, n, dkey, dgate }.launch(engine, grid);
        }
    }
}
