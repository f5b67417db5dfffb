//! What a warp does as one, on the host, against plain products: the layouts `ptx.cuh` states.

use std::path::PathBuf;

use incise::base::Rng;
use incise::gpu::launch::{Argument, Elem, File, Grid};
use incise::gpu::twin::{Order, Twin};
use incise::gpu::{Array, Engine};

use crate::support::twin;

const TEXT: &str = include_str!("warp.cu");
static FILE: File =
    File { name: "warp", text: TEXT, variants: &[("bf16", ""), ("f16", "")], images: &[] };

fn programs() -> Option<Vec<PathBuf>> {
    twin::make("warp", &[("warp".to_owned(), TEXT.to_owned())])
}

/// Whole numbers: every type holds them and their products, and sums are exact.
fn draw(rng: &mut Rng, n: usize) -> Vec<f64> {
    (0..n).map(|_| (rng.uniform() * 33.0).floor() - 16.0).collect()
}

/// c + a b, with b[k, n] from a function.
fn product(
    [m, k, n]: [usize; 3],
    c: &[f64],
    a: &[f64],
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let dot = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b(l, j)).sum::<f64>();
    (0..m * n).map(|at| c[at] + dot(at / n, at % n)).collect()
}

fn pointer(name: &'static str, to: &'static str, array: &Array) -> Argument {
    Argument::Pointer { name, to, place: array.place() }
}

#[test]
fn fragments_lie_as_stated() {
    let Some(programs) = programs() else { return };
    let mut rng = Rng::new(0, "fragments");
    let orders = [Order::Forwards, Order::Backwards, Order::Shuffled];
    for (program, order) in programs.iter().flat_map(|p| orders.map(|o| (p, o))) {
        let engine = Engine::twin(Twin::start(program, order).unwrap());
        for (elem, along_k) in
            [Elem::BF16, Elem::F16].into_iter().flat_map(|e| [(e, false), (e, true)])
        {
            let [a, b, c] = [(); 3].map(|()| draw(&mut rng, 256));
            // The elements at the end that a copy leaves out; none, one, a packet and a half.
            for (kernel, cut) in [("loaded", 0), ("staged", 0), ("staged", 1), ("staged", 12)] {
                let b_at = |k: usize, n: usize| {
                    let at = if along_k { n * 16 + k } else { k * 16 + n };
                    if at < 256 - cut { b[at] } else { 0.0 }
                };
                let want = product([16; 3], &c, &a, b_at);
                let arrays = [&a, &b].map(|x| twin::up(&engine, elem, x));
                let sum = twin::up(&engine, Elem::F32, &c);
                let mut arguments = vec![
                    pointer("a", "elem", &arrays[0]),
                    pointer("b", "elem", &arrays[1]),
                    Argument::i32(i32::from(along_k)),
                ];
                arguments.extend((kernel == "staged").then_some(Argument::i32(cut as i32)));
                arguments.push(pointer("c", "float", &sum));
                engine.launch(&FILE, kernel, Grid::line(1, 32), &arguments);
                assert_eq!(twin::down(&sum), want, "{kernel} {elem:?} {along_k} {cut} {order:?}");
            }
        }
        let [a, b, c] = [32, 32, 64].map(|n| draw(&mut rng, n));
        let arrays = [&a, &b, &c].map(|x| twin::up(&engine, Elem::F64, x));
        let names = ["a", "b", "c"].into_iter().zip(&arrays);
        let arguments: Vec<_> = names.map(|(name, x)| pointer(name, "double", x)).collect();
        engine.launch(&FILE, "doubles", Grid::line(1, 32), &arguments);
        let want = product([8, 4, 8], &c, &a, |k, n| b[k * 8 + n]);
        assert_eq!(twin::down(&arrays[2]), want, "doubles {order:?}");
    }
}
