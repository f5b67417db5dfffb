//! Products of the sizes of real models, held by `support/projection.rs`.

use incise::gpu::Engine;
use incise::gpu::kernels::linear_mma::RUN;
use incise::gpu::launch::Elem;
use incise::ops::cuda::linear as cuda;
use incise::tensor::Layout;

use super::Lying;
use super::library::multiplied;
use crate::support::budget::{U32, lost};
use crate::support::projection::{Matrix, Numbers, Product, Within};
use crate::support::toy::cast;
use crate::support::twin;

/// [N, out, in] of a card: activations, weights, whether the result is rounded, how W lies.
type Case = ([usize; 3], Elem, Elem, bool, Layout);

const CASES: [Case; 7] = [
    // MLPs of GPT-J, up and down; rows that do not fill a tile.
    ([8190, 16384, 4096], Elem::F32, Elem::BF16, false, Layout::OutIn),
    ([8192, 4096, 16384], Elem::F32, Elem::BF16, false, Layout::InOut),
    ([8190, 4096, 16384], Elem::BF16, Elem::BF16, true, Layout::OutIn),
    ([8192, 16384, 4096], Elem::BF16, Elem::BF16, true, Layout::InOut),
    // No library's; nothing is a multiple of anything.
    ([8191, 16381, 4093], Elem::F32, Elem::F32, false, Layout::OutIn),
    ([8191, 4093, 16381], Elem::F32, Elem::F32, false, Layout::InOut),
    // Its head.
    ([2100, 50400, 4096], Elem::F32, Elem::BF16, false, Layout::OutIn),
];

/// The same for the host: a tile and more of rows, and what the library would take.
fn small([n, out, inner]: [usize; 3]) -> [usize; 3] {
    [n / 60, out / 512 * 8 + out % 8, inner / 512 * 8 + inner % 8]
}

/// x, dy, W as it is stored, and what is added to every row of y and of dx.
struct Large {
    lying: Lying,
    sizes: [usize; 3],
    x: Numbers,
    dy: Numbers,
    w: Numbers,
    to_y: Vec<f64>,
    to_dx: Vec<f64>,
}

impl Large {
    fn draw(lying: Lying, [n, out, inner]: [usize; 3]) -> Large {
        let stored = match lying.layout {
            Layout::OutIn => [out, inner],
            Layout::InOut => [inner, out],
        };
        let added = |name, m: usize, k: usize| -> Vec<f64> {
            let some = Numbers::draw(name, Elem::BF16, [1, m], [0.0, 1.0]);
            (0..m).map(|j| one_more(k).powi(2) * some.at(j)).collect()
        };
        // What is rounded is not added to.
        let to_dx = if lying.rounded { vec![0.0; inner] } else { added("large dx", inner, out) };
        Large {
            lying,
            sizes: [n, out, inner],
            x: Numbers::draw("large x", lying.elem, [n, inner], [1.0, 0.0]),
            dy: Numbers::draw("large dy", lying.elem, [n, out], [1.0, 0.0]),
            w: Numbers::draw("large W", lying.of, stored, [1.0, 1.0]),
            to_y: added("large b", out, inner),
            to_dx,
        }
    }

    /// y and dx.
    fn run(&self, engine: &Engine) -> [Numbers; 2] {
        let ([n, out, inner], lying) = (self.sizes, &self.lying);
        let [x, dy, w] = [&self.x, &self.dy, &self.w].map(|x| x.up(engine));
        let (row_stride, col_stride) = match lying.layout {
            Layout::OutIn => (inner, 1),
            Layout::InOut => (1, out),
        };
        let w = cuda::DeviceMatrix { w: &w, out, inner, row_stride, col_stride };
        let b = twin::up(engine, Elem::F32, &self.to_y);
        let mut y = engine.array(lying.to(), n * out).unwrap();
        let mut dx = match lying.rounded {
            true => engine.array(lying.to(), n * inner).unwrap(),
            false => {
                let row = cast::<f32>(&self.to_dx);
                engine.upload(Elem::F32, &bytemuck::cast_slice(&row).repeat(n)).unwrap()
            }
        };
        cuda::forward(engine, &x, w, Some(&b), &mut y);
        cuda::backward(engine, &dy, w, &mut dx, !lying.rounded);
        [y, dx].map(|c| Numbers::of(&c))
    }

    /// x Wᵀ and dy W, with a product more for what is added.
    fn products(&self) -> [Product; 2] {
        let [_, out, inner] = self.sizes;
        let w = |o: usize, i: usize| match self.lying.layout {
            Layout::OutIn => self.w.at(o * inner + i),
            Layout::InOut => self.w.at(i * out + o),
        };
        let y = self.product(&self.x, |i, o| w(o, i), [inner, out], &self.to_y);
        [y, self.product(&self.dy, w, [out, inner], &self.to_dx)]
    }

    fn product(
        &self,
        a: &Numbers,
        w: impl Fn(usize, usize) -> f64 + Sync,
        [k, m]: [usize; 2],
        more: &[f64],
    ) -> Product {
        let one = one_more(k);
        let a = |i: usize, x: usize| if x < k { a.at(i * k + x) } else { one };
        let w = |x: usize, j: usize| if x < k { w(x, j) } else { more[j] / one };
        let a = Matrix { rows: self.sizes[0], cols: k + 1, at: a };
        Product::of(&a, &Matrix { rows: k + 1, cols: m, at: w })
    }
}

/// A factor of what is added to sums of k products: a power of two, so that nothing is rounded, and
/// some √k, so that it shows beside the sum and not in the norms.
fn one_more(k: usize) -> f64 {
    f64::powi(2.0, k.ilog2() as i32 / 2 - 2)
}

/// What sums of k products in `linear_mma` may lose of Σ |a||w|: what tensor cores do, and the
/// rounding of sums of runs.
fn ours(lying: &Lying, k: usize) -> f64 {
    lying.lost(k) + 1.02 * (k / RUN + 1) as f64 * U32
}

/// By cuBLASLt, one product a part: see `library.rs`; the last for sums of them.
fn librarys(lying: &Lying, k: usize) -> f64 {
    lying.split() + 1.02 * lost(k) + f64::powi(2.0, -21)
}

/// Holds y and dx, whose sums of k products may lose `size` of theirs.
fn hold(engine: &Engine, case: Case, size: impl Fn(&Lying, usize) -> f64) {
    let (sizes, elem, of, rounded, layout) = case;
    let lying = Lying { rounded, ..Lying::plain((elem, of), layout) };
    let [n, out, inner] = twin::sizes(sizes, small(sizes));
    let large = Large::draw(lying, [n, out, inner]);
    // Of what is added to the sum, and of the type it is put in.
    let last = U32 + if rounded { f64::powi(2.0, -8) } else { 0.0 };
    let outputs = [("y", inner, out), ("dx", out, inner)];
    for (((name, k, m), want), got) in outputs.iter().zip(large.products()).zip(large.run(engine)) {
        let case = format!("{name} ({n}, {m}) of {k} products, {lying:?}");
        want.hold(&case, &got.matrix(n, *m), Within { size: size(&lying, *k), last });
    }
}

#[test]
fn kernels() {
    let Some(engine) = twin::engine("ops::linear::large::kernels") else { return };
    for case in CASES {
        hold(&engine.own(), case, ours);
    }
}

#[test]
fn library() {
    let test = "ops::linear::large::library";
    let Some(card) = twin::library(test, |e| e.blaslt().is_some()) else { return };
    for case in CASES.into_iter().filter(|case| case.2 == Elem::BF16) {
        hold(&card, case, librarys);
    }
    multiplied(&card);
}
