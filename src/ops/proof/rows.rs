//! Rows, rotations and embeddings: `kernels/rows.cu`, `rope.cu` and `embed.cu`. All exact, on whole
//! numbers where they add or multiply. But for caps: with a c that divides exactly, c tanhf(x/c) is
//! off by 4 roundings of c for tanhf and 1 for the product.

use super::numbers::{U, hash, whole};
use super::trial::{Trial, Verdict};
use crate::gpu::Engine;
use crate::gpu::launch::Elem;
use crate::ops::cpu::rope::{self as rotation, Pairing};
use crate::ops::cpu::rows as definition;
use crate::ops::cuda::rope::DeviceAngles;
use crate::ops::cuda::{embed, rope, rows};

const WIDE: usize = 300; // more columns than a block has threads
const D: usize = 261;
const FROM: usize = 37;
const N: usize = 6;

/// Some rows, one of them twice.
const PICKED: [usize; 5] = [4, 0, 5, 4, 2];

fn numbers(rows: &[usize]) -> Vec<f64> {
    rows.iter().map(|&row| row as f64).collect()
}

/// All of `rows.cu`.
pub fn all(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    gather(engine, elem)?;
    scatter(engine, elem)?;
    add(engine, elem)?;
    // Streams are f32, so one build of the file has it.
    if elem == Elem::F32 {
        scale(engine)?;
        cap(engine)?;
    }
    round(engine, elem)
}

fn gather(engine: &Engine, elem: Elem) -> Verdict {
    let mut trial = Trial::new(engine, format!("columns {FROM} to {} of {WIDE}", FROM + D));
    let n = PICKED.len();
    let x = whole(1, N * WIDE, 100);
    let mut want = vec![0.0; n * D];
    definition::gather(&x, [WIDE, FROM, D], &PICKED, &mut want);
    let x = trial.input("x", elem, &x);
    let picked = trial.input("rows", Elem::I32, &numbers(&PICKED));
    let mut y = trial.output("y", elem, n * D);
    trial.run("gather_rows", || rows::gather(engine, &x, [WIDE, FROM, D], &picked, &mut y))?;
    trial.equal("gather_rows", &y, &[n, D], &want)
}

fn scatter(engine: &Engine, elem: Elem) -> Verdict {
    let mut trial = Trial::new(engine, format!("columns {FROM} to {} of {WIDE}", FROM + D));
    let n = PICKED.len();
    let y = whole(2, n * D, 100);
    let start = whole(3, N * WIDE, 1000);
    let mut want = start.clone();
    definition::scatter_add(&mut want, [WIDE, FROM, D], &PICKED, &y);
    let y = trial.input("y", elem, &y);
    let picked = trial.input("rows", Elem::I32, &numbers(&PICKED));
    let mut x = trial.inout("x", Elem::F32, &start);
    trial.run("scatter_rows", || {
        rows::scatter_add(engine, &mut x, [WIDE, FROM, D], &picked, &y);
    })?;
    trial.equal("scatter_rows", &x, &[N, WIDE], &want)
}

fn add(engine: &Engine, elem: Elem) -> Verdict {
    let mut trial = Trial::new(engine, format!("n {}", 3 * D));
    let y = whole(4, 3 * D, 100);
    let start = whole(5, 3 * D, 1000);
    let mut want = start.clone();
    definition::add(&mut want, &y);
    let y = trial.input("y", elem, &y);
    let mut x = trial.inout("x", Elem::F32, &start);
    trial.run("add_rows", || rows::add(engine, &mut x, &y))?;
    trial.equal("add_rows", &x, &[3 * D], &want)
}

fn scale(engine: &Engine) -> Verdict {
    let mut trial = Trial::new(engine, format!("n {}", 3 * D));
    let start = whole(8, 3 * D, 1000);
    let mut want = start.clone();
    definition::scale(&mut want, 0.375);
    let mut x = trial.inout("x", Elem::F32, &start);
    trial.run("scale_rows", || rows::scale(engine, &mut x, 0.375))?;
    trial.equal("scale_rows", &x, &[3 * D], &want)
}

fn cap(engine: &Engine) -> Verdict {
    const C: f64 = 16.0;
    let mut trial = Trial::new(engine, format!("n {}, c {C}", 3 * D));
    let start = whole(9, 3 * D, 60);
    let mut want = start.clone();
    definition::cap(&mut want, C);
    let mut x = trial.inout("x", Elem::F32, &start);
    trial.run("cap_rows", || rows::cap(engine, &mut x, C as f32))?;
    trial.within("cap_rows", &x, &[3 * D], &want, |_| 5.0 * U * C)
}

fn round(engine: &Engine, elem: Elem) -> Verdict {
    let n = 3 * D;
    let mut trial = Trial::new(engine, format!("n {n}"));
    // Halfway between two bf16 for every other one.
    let number = |i: usize| {
        let sign = if i.is_multiple_of(3) { -1.0 } else { 1.0 };
        sign * (65_536 + (hash(6, i) % 512 * 256)) as f64 + (hash(7, i) % 2) as f64
    };
    let want: Vec<f64> = (0..n).map(number).collect();
    let x = trial.input("x", Elem::F32, &want);
    let y = trial.output("y", elem, n);
    trial.run("round_rows", || rows::round(engine, x.slice(), y.slice()))?;
    trial.equal("round_rows", &y, &[n], &want)
}

/// `rope_turn`: by eighths in place of sines, so that every product and sum is exact.
pub fn turns(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    let [n, heads, width, half] = [5, 3, 14, 6];
    for (pairing, back) in [
        (Pairing::Halves, false),
        (Pairing::Halves, true),
        (Pairing::Adjacent, false),
        (Pairing::Adjacent, true),
    ] {
        let mut trial =
            Trial::new(engine, format!("{pairing:?}, back {back}, H {heads}, E {width}"));
        let eighths = |series| whole(series, n * half, 8).iter().map(|x| x / 8.0).collect();
        let [cos, sin]: [Vec<f64>; 2] = [1, 2].map(eighths);
        let x = whole(3, n * heads * width, 60);
        let mut want = x.clone();
        rotation::rotate(&mut want, heads, &cos, &sin, half, pairing, back);
        let cos = trial.input("cos", Elem::F32, &cos);
        let sin = trial.input("sin", Elem::F32, &sin);
        let mut x = trial.inout("x", elem, &x);
        let angles = DeviceAngles { cos: &cos, sin: &sin, half, pairing };
        trial.run("rope_turn", || rope::rotate(engine, &mut x, [heads, width], angles, back))?;
        trial.equal("rope_turn", &x, &[n, heads, width], &want)?;
    }
    Ok(())
}

/// `embed_fwd` and `embed_add`.
pub fn embedded(engine: &Engine, [elem, weight]: [Elem; 2]) -> Verdict {
    let mut trial = Trial::new(engine, format!("N {}, D {D}", PICKED.len()));
    let [tokens, positions] = [whole(1, 6 * D, 100), whole(2, 6 * D, 100)];
    let at = [0, 1, 2, 3, 5];
    let row = |i: usize| {
        let [tokens, positions] =
            [(&tokens, PICKED[i]), (&positions, at[i])].map(|(w, row)| &w[row * D..][..D]);
        tokens.iter().zip(positions).map(|(x, p)| x + p).collect::<Vec<f64>>()
    };
    let want: Vec<f64> = (0..PICKED.len()).flat_map(row).collect();
    let w = trial.input("w", weight, &tokens);
    let p = trial.input("w of positions", weight, &positions);
    let ids = trial.input("ids", Elem::I32, &numbers(&PICKED));
    let places = trial.input("ids of positions", Elem::I32, &numbers(&at));
    let mut x = trial.output("x", elem, PICKED.len() * D);
    trial.run("embed_fwd", || embed::forward(engine, &ids, &w, Some((&p, &places)), &mut x))?;
    trial.equal("embed_add", &x, &[PICKED.len(), D], &want)
}
