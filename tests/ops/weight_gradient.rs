//! dW += dyᵀ x, piece by piece.

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::cuda::weight_gradient as cuda;
use incise::ops::linear;
use incise::ops::rows::Index;
use incise::ops::weight_gradient::{PIECE, accumulate, cuts};
use incise::tensor::{Compute, Precision, Tensor, Weight};

use crate::support::budget::{self, Op, U32, inner, inner_abs, lost};
use crate::support::projection::{Matrix, Numbers, Product, Within};
use crate::support::toy::{Draw, cast};
use crate::support::twin;

/// (case, lengths of sequences, [out, in]).
const CASES: &[(&str, &[usize], [usize; 2])] = &[
    ("no token", &[], [3, 7]),
    ("one token, one row, one column", &[1], [1, 1]),
    ("not a multiple of anything", &[3, 1, 5], [129, 131]),
    ("one row", &[9], [1, 257]),
    ("one column", &[9], [257, 1]),
    ("GPT-2 small, down", &[5], [768, 3072]),
    ("pieces that are full, and that are not", &[PIECE, 1, PIECE - 1, 77, 60], [33, 29]),
    ("a sequence of several pieces", &[2 * PIECE + 5, 7], [5, 300]),
];

struct Gradient {
    sizes: [usize; 2],
    cuts: Vec<usize>,
    dy: Vec<f64>,
    x: Vec<f64>,
    dw: Vec<f64>, // what is there already
}

impl Gradient {
    fn draw(draw: &mut Draw, lengths: &[usize], [out, inner]: [usize; 2]) -> Gradient {
        let n: usize = lengths.iter().sum();
        Gradient {
            sizes: [out, inner],
            cuts: cuts(lengths.iter().copied()),
            dy: draw.normal(n * out),
            x: draw.normal(n * inner),
            dw: draw.normal(out * inner),
        }
    }

    /// As a type holds its numbers.
    fn rounded(self, elem: Elem) -> Gradient {
        let [dy, x] = [&self.dy, &self.x].map(|x| twin::rounded(elem, x));
        Gradient { dy, x, dw: twin::rounded(Elem::F32, &self.dw), ..self }
    }

    /// Some of its pieces.
    fn part(&self, from: usize, to: usize, dw: &[f64]) -> Gradient {
        let [out, inner] = self.sizes;
        let rows = self.cuts[from]..self.cuts[to];
        Gradient {
            sizes: self.sizes,
            cuts: self.cuts[from..=to].iter().map(|cut| cut - rows.start).collect(),
            dy: self.dy[rows.start * out..rows.end * out].to_vec(),
            x: self.x[rows.start * inner..rows.end * inner].to_vec(),
            dw: dw.to_vec(),
        }
    }

    fn kernels(&self, engine: &Engine, elem: Elem) -> Vec<f64> {
        let [dy, x] = [&self.dy, &self.x].map(|x| twin::up(engine, elem, x));
        let at: Vec<f64> = self.cuts.iter().map(|&cut| cut as f64).collect();
        let mut dw = twin::up(engine, Elem::F32, &self.dw);
        let cuts = twin::up(engine, Elem::I32, &at);
        cuda::accumulate(engine, &dy, &x, &cuts, self.sizes, &mut dw);
        twin::down(&dw)
    }

    /// How far dW may be off beyond that: what `weight_gradient.cu` says.
    fn lost_by_cores(&self, elem: Elem) -> Vec<f64> {
        let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect();
        let sizes = Gradient {
            dy: abs(&self.dy),
            x: abs(&self.x),
            dw: vec![0.0; self.dw.len()],
            cuts: self.cuts.clone(),
            ..*self
        };
        let largest = sizes.plain::<f64>()[0].iter().fold(0.0, |a: f64, &x| a.max(x));
        vec![lost_of(elem, self.cuts[self.cuts.len() - 1]) * largest]
    }
}

/// What sums over n tokens may lose of Σ |dy||x| beyond rounding: parts that are left out, and a
/// piece's sums in tensor cores; parts are up to 2⁻⁸ larger than their numbers.
fn lost_of(elem: Elem, n: usize) -> f64 {
    let (split, products) = match elem {
        Elem::F32 => (4.0 * (1.0 + f64::powi(2.0, -19)) * f64::powi(2.0, -17), 3.0),
        _ => (0.0, 1.0),
    };
    split + 1.02 * products * lost(n.min(PIECE))
}

impl Op for Gradient {
    const OUTPUTS: &'static [&'static str] = &["dW"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let [out, inner] = self.sizes;
        let (dy, x) = (cast::<T>(&self.dy), cast::<T>(&self.x));
        let mut dw = cast::<T>(&self.dw);
        for piece in self.cuts.windows(2) {
            let mut sums = vec![T::default(); out * inner];
            for t in piece[0]..piece[1] {
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum += dy[t * out + at / inner] * x[t * inner + at % inner];
                }
            }
            dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += sum);
        }
        vec![dw]
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        let [out, inner] = self.sizes;
        let n = self.cuts[self.cuts.len() - 1];
        let tensor = |shape: [usize; 2], values: &[f64]| Tensor::of(precision, &shape, values);
        let mut dw = tensor([out, inner], &self.dw);
        let cuts = Index::new(&Compute::from(precision), &self.cuts[..]);
        accumulate(&tensor([n, out], &self.dy), &tensor([n, inner], &self.x), &cuts, &mut dw);
        vec![dw.to_f64()]
    }
}

#[test]
fn cases() {
    for &(case, lengths, sizes) in CASES {
        budget::hold(&format!("weight gradient, {case}"), |draw| {
            Gradient::draw(draw, lengths, sizes)
        });
    }
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::weight_gradient::kernels") else { return };
    let cases: [(&[usize], [usize; 2]); 5] = [
        (&[], [5, 7]),
        (&[1], [1, 1]),
        (&[3, 1, 5], [129, 40]),
        (&[9], [24, 136]),
        (&[100, 27, 2, 2 * PIECE + 5], [33, 29]),
    ];
    let both = [Elem::F32, Elem::BF16].into_iter().flat_map(|elem| cases.map(|case| (elem, case)));
    for (elem, (lengths, sizes)) in both {
        budget::kernel_besides(
            &format!("weight gradient {elem:?}, {lengths:?}, {sizes:?}"),
            &engines,
            &[Elem::F32],
            |draw| Gradient::draw(draw, lengths, sizes).rounded(elem),
            |case, engine| vec![case.kernels(engine, elem)],
            |case| case.lost_by_cores(elem),
        );
    }
}

/// That of GPT-J's down projection over a batch of LocFT.
#[test]
fn kernels_large() {
    let Some(engine) = twin::engine("ops::weight_gradient::kernels_large") else { return };
    let real = [(Elem::F32, [2777, 4096, 16384]), (Elem::BF16, [4001, 16381, 4093])];
    let small = [(Elem::F32, [300, 136, 144]), (Elem::BF16, [131, 133, 264])];
    for (elem, [n, out, inner]) in twin::sizes(real, small) {
        let dy = Numbers::draw("large dy", elem, [n, out], [0.0, 1.0]);
        let x = Numbers::draw("large x", elem, [n, inner], [1.0, 1.0]);
        let mut dw = engine.upload(Elem::F32, &vec![0; 4 * out * inner]).unwrap();
        let at: Vec<f64> = cuts(std::iter::repeat_n(17, n / 17).chain([n % 17]))
            .into_iter()
            .map(|cut| cut as f64)
            .collect();
        let cuts = twin::up(&engine, Elem::I32, &at);
        let [dy_up, x_up] = [&dy, &x].map(|x| x.up(&engine));
        cuda::accumulate(&engine, &dy_up, &x_up, &cuts, [out, inner], &mut dw);
        let left = Matrix { rows: out, cols: n, at: |o: usize, t: usize| dy.at(t * out + o) };
        let got = Numbers::of(&dw);
        let size = lost_of(elem, n) + 1.02 * at.len() as f64 * U32;
        Product::of(&left, &x.matrix(n, inner)).hold(
            &format!("{elem:?} {n} tokens, {out} x {inner}"),
            &got.matrix(out, inner),
            Within { size, last: 0.0 },
        );
    }
}

/// However many pieces there are at a time.
#[test]
fn bits_are_a_matter_of_the_pieces() {
    let mut draw = Draw::new("weight gradient, pieces", true);
    let lengths = [100, 27, 2, 150, 61, 60, 8, 128, 3];
    let case = Gradient::draw(&mut draw, &lengths, [131, 67]).rounded(Elem::F32);
    let pieces = case.cuts.len() - 1;
    let by_parts = |run: &dyn Fn(&Gradient) -> Vec<f64>, at_once: usize| {
        let mut dw = case.dw.clone();
        for from in (0..pieces).step_by(at_once) {
            dw = run(&case.part(from, pieces.min(from + at_once), &dw));
        }
        dw
    };
    let hold = |name: &str, run: &dyn Fn(&Gradient) -> Vec<f64>| {
        let whole = by_parts(run, pieces);
        for at_once in [1, 2, 3] {
            assert!(by_parts(run, at_once) == whole, "{at_once} pieces at a time on {name}");
        }
    };
    hold("the host", &|case| case.ours(Precision::F32).remove(0));
    let engine = twin::engine("ops::weight_gradient::bits_are_a_matter_of_the_pieces");
    engine.iter().for_each(|engine| hold("kernels", &|case| case.kernels(engine, Elem::F32)));
}

#[test]
fn texts_are_cut_by_their_lengths_alone() {
    assert_eq!(cuts([]), [0]);
    assert_eq!(cuts([0, 5, 0]), [0, 5]);
    assert_eq!(cuts([100, 28, 1]), [0, 128, 129]);
    assert_eq!(cuts([100, 29, 1]), [0, 100, 130]);
    assert_eq!(cuts([300]), [0, 128, 256, 300]);
    assert_eq!(cuts([10, 300, 4]), [0, 10, 138, 266, 314]);
    // A piece that begins with a sequence begins there whatever came before.
    let lengths = [100, 27, 2, 150, 61, 60, 8, 128, 3];
    let all = cuts(lengths);
    let mut start = 0;
    for (i, length) in lengths.iter().enumerate() {
        if all.contains(&start) {
            let rest: Vec<usize> = cuts(lengths[i..].iter().copied());
            let of_all = all.iter().filter(|&&cut| cut >= start).map(|cut| cut - start);
            assert!(rest.into_iter().eq(of_all), "from sequence {i} on");
        }
        start += length;
    }
}

/// ⟨dW, V⟩ = ⟨dy, x Vᵀ⟩ for any V: y is linear in W, so this is its slope.
#[test]
fn is_the_adjoint_of_the_product() {
    let mut draw = Draw::new("weight gradient, adjoint", false);
    let (lengths, [out, width]) = ([100, 27, 2], [37, 131]);
    let case = Gradient::draw(&mut draw, &lengths, [out, width]);
    let n = 129;
    let v = draw.normal(out * width);
    let case = Gradient { dw: vec![0.0; out * width], ..case };
    let dw = case.ours(Precision::F64).remove(0);
    let tensor = |shape: [usize; 2], values: &[f64]| Tensor::of(Precision::F64, &shape, values);
    let mut y = tensor([n, out], &vec![0.0; n * out]);
    let weight = Weight::dense_f64(v.clone(), out, width);
    linear::forward(&tensor([n, width], &case.x), &weight, None, &mut y);
    let sides = [inner(&case.dy, &y.to_f64()), inner(&dw, &v)];
    let size: f64 = (0..n * out)
        .map(|at| {
            let (t, o) = (at / out, at % out);
            case.dy[at].abs() * inner_abs(&v[o * width..][..width], &case.x[t * width..][..width])
        })
        .sum();
    budget::adjoint("weight gradient", sides, n * out * width, size);
}
