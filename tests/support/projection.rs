//! Large products held to f64 without being computed again: by sums of elements with random signs.
//!
//! ```text
//! c = a w                 c (N, M)   a (N, K)   w (K, M)   r_j = ±1   block q: BLOCK columns
//! Σ_j r_j c_ij = Σ_k a_ik v_kq    v_kq = Σ_j r_j w_kj      j in q; N K M/BLOCK terms, not N K M
//! |e_ij| ≤ b_ij = size |a_i| |w_j| + last |c_ij|           how far c_ij may be off; norms |·|₂
//! |Σ_j r_j e_ij| ≤ Σ_j b_ij                                what is held, in f64
//! ```
//!
//! `size` bounds the error by Σ_k |a_ik||w_kj|, which is at most |a_i||w_j| (Cauchy and Schwarz);
//! `last` is what rounding the element itself may do, of the element that is there. Then cᵀ = wᵀaᵀ,
//! so that a wrong element is named by its row and by its column.
//!
//! An element alone that is off by more than 2 Σ_j b_ij of its block is surely seen, and no correct
//! product ever fails: signs keep errors of neighbours from cancelling, nothing rests on chance.
//! (Sums of n errors with random signs exceed √(2 ln(2/p) Σ_j b_ij²) with probability p at most
//! (Hoeffding 1963): less than Σ_j b_ij only from n = 2 ln(2/p) on, some 100 for a p that is small
//! beside the number of sums; and a block that long sees less.)
//!
//! A bound as wide as the elements would let anything pass: [`Product`] demands that what is surely
//! seen is on average no more than elements are, so one that is missing shows. Of numbers without
//! any order |a_i||w_j| is some √K times c_ij; [`Numbers::draw`] makes some of which it is a few
//! times, whatever K is. The factors' own products are `faer`'s, in f64.

use std::fmt::Write as _;
use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use incise::base::Rng;
use incise::gpu::launch::Elem;
use incise::gpu::{Array, Engine};
use rayon::prelude::*;

use super::budget::{U32, U64};
use super::twin;

/// Elements of a sum.
const BLOCK: usize = 16;

/// Rows that a thread takes at a time.
const ROWS: usize = 64;

/// Numbers after which a drawn row, or column, begins again: few, so that sums are large, and odd,
/// so that tiles next to each other begin with different ones.
const PERIOD: usize = 5;

/// A matrix (rows, cols) by its elements, however they lie.
pub struct Matrix<F> {
    pub rows: usize,
    pub cols: usize,
    pub at: F,
}

impl<F: Fn(usize, usize) -> f64 + Sync> Matrix<F> {
    pub fn transposed(&self) -> Matrix<impl Fn(usize, usize) -> f64 + Sync> {
        Matrix { rows: self.cols, cols: self.rows, at: |i, j| (self.at)(j, i) }
    }

    pub fn abs(&self) -> Matrix<impl Fn(usize, usize) -> f64 + Sync> {
        Matrix { rows: self.rows, cols: self.cols, at: |i, j| (self.at)(i, j).abs() }
    }

    /// Its product with v (cols, q).
    pub fn times(&self, v: &[f64], q: usize) -> Vec<f64> {
        let v = MatRef::from_row_major_slice(v, self.cols, q);
        let mut all = vec![0.0; self.rows * q];
        all.par_chunks_mut(ROWS * q).enumerate().for_each(|(chunk, sums)| {
            let rows = sums.len() / q;
            let mut a = Mat::<f64>::zeros(rows, self.cols);
            // In blocks: what the cache takes is used, whichever way the matrix lies.
            for from in (0..self.cols).step_by(BLOCK) {
                for (i, j) in (0..rows).flat_map(|i| (from..from + BLOCK).map(move |j| (i, j))) {
                    if j < self.cols {
                        a[(i, j)] = (self.at)(chunk * ROWS + i, j);
                    }
                }
            }
            let sums = MatMut::from_row_major_slice_mut(sums, rows, q);
            matmul(sums, Accum::Replace, &a, v, 1.0, Par::Seq);
        });
        all
    }

    /// The sum of a function of each column and element, over each block of a row.
    fn folded(&self, of: impl Fn(usize, f64) -> f64 + Sync) -> Vec<f64> {
        let blocks = self.cols.div_ceil(BLOCK);
        let mut all = vec![0.0; self.rows * blocks];
        all.par_chunks_mut(ROWS * blocks).enumerate().for_each(|(chunk, sums)| {
            for block in 0..blocks {
                let columns = block * BLOCK..self.cols.min((block + 1) * BLOCK);
                for (i, sums) in (chunk * ROWS..).zip(sums.chunks_mut(blocks)) {
                    sums[block] = columns.clone().map(|j| of(j, (self.at)(i, j))).sum();
                }
            }
        });
        all
    }

    /// |·|₂ of each row.
    fn norms(&self) -> Vec<f64> {
        let squares = self.folded(|_, x| x * x);
        squares.chunks(self.cols.div_ceil(BLOCK)).map(|x| x.iter().sum::<f64>().sqrt()).collect()
    }
}

/// How far an element may be off: a part of |a_i||w_j|, and one of itself.
#[derive(Clone, Copy, Debug)]
pub struct Within {
    pub size: f64,
    pub last: f64,
}

/// A sum of elements that is off by more than it may be.
#[derive(Clone, Copy, Debug)]
struct Fault {
    row: usize,
    block: usize,
    off: f64,
    bound: f64,
}

/// What the sums along the rows of a product should be.
struct Sums {
    want: Vec<f64>,
    left: Vec<f64>,  // |a_i|
    right: Vec<f64>, // Σ_j |w_j| of each block
    signs: Vec<f64>,
    rounded: f64, // what they lose of |a_i||w_j|
}

impl Sums {
    fn of<A, W>(a: &Matrix<A>, w: &Matrix<W>) -> Sums
    where
        A: Fn(usize, usize) -> f64 + Sync,
        W: Fn(usize, usize) -> f64 + Sync,
    {
        assert_eq!(a.cols, w.rows, "sizes differ");
        let mut rng = Rng::new(0, "signs of a projection");
        let signs: Vec<f64> = (0..w.cols).map(|_| [1.0, -1.0][rng.bits() as usize % 2]).collect();
        let blocks = w.cols.div_ceil(BLOCK);
        let want = a.times(&w.folded(|j, x| signs[j] * x), blocks);
        let norms = w.transposed().norms();
        let right = norms.chunks(BLOCK).map(|norms| norms.iter().sum()).collect();
        // Sums of K products, of a block of w and of one of c.
        let rounded = (a.cols + 2 * BLOCK) as f64 * U64;
        Sums { want, left: a.norms(), right, signs, rounded }
    }

    fn faults<C>(&self, c: &Matrix<C>, within: Within) -> Vec<Fault>
    where
        C: Fn(usize, usize) -> f64 + Sync,
    {
        assert_eq!([c.rows, c.cols], [self.left.len(), self.signs.len()], "sizes differ");
        let got = c.folded(|j, x| self.signs[j] * x);
        let sizes = c.folded(|_, x| x.abs());
        // The norms are off by far less than a hundredth.
        let size = 1.01 * (within.size + self.rounded);
        let fault = |at: usize| {
            let (row, block) = (at / self.right.len(), at % self.right.len());
            let bound = size * self.left[row] * self.right[block] + within.last * sizes[at];
            Fault { row, block, off: (got[at] - self.want[at]).abs(), bound }
        };
        let all = (0..got.len()).map(fault);
        let seen = all.clone().map(|f| 2.0 * f.bound).sum::<f64>() / got.len() as f64;
        let typical = sizes.iter().sum::<f64>() / (c.rows * c.cols) as f64;
        // Infinite is within infinite bounds.
        let wrong: Vec<Fault> = all.filter(|f| !(f.off <= f.bound && f.off.is_finite())).collect();
        let judges = seen <= typical || !wrong.is_empty();
        assert!(judges, "only {seen:e} is surely seen, and elements are {typical:e}");
        wrong
    }
}

/// What sums of a w should be, along rows and, unless it is symmetric, along columns.
pub struct Product(Sums, Option<Sums>);

impl Product {
    /// Of a w.
    pub fn of<A, W>(a: &Matrix<A>, w: &Matrix<W>) -> Product
    where
        A: Fn(usize, usize) -> f64 + Sync,
        W: Fn(usize, usize) -> f64 + Sync,
    {
        Product(Sums::of(a, w), Some(Sums::of(&w.transposed(), &a.transposed())))
    }

    /// Of a aᵀ.
    pub fn square<A: Fn(usize, usize) -> f64 + Sync>(a: &Matrix<A>) -> Product {
        Product(Sums::of(a, &a.transposed()), None)
    }

    /// Holds c to it. A wrong element is named by its row and by its column.
    pub fn hold<C>(&self, case: &str, c: &Matrix<C>, within: Within)
    where
        C: Fn(usize, usize) -> f64 + Sync,
    {
        let mut said = String::new();
        for (line, faults) in ["row", "column"].iter().zip(self.faults(c, within)) {
            let [Fault { row, block, off, bound }, ..] = faults[..] else { continue };
            let (first, count, last) = (block * BLOCK, faults.len(), faults[faults.len() - 1].row);
            write!(said, "; {count} sums in {line}s {row} to {last}").unwrap();
            write!(said, ", from place {first} of the first by {off:e} > {bound:e}").unwrap();
        }
        assert!(said.is_empty(), "{case} is wrong{said}");
    }

    /// The wrong sums along rows, and along columns.
    fn faults<C>(&self, c: &Matrix<C>, within: Within) -> [Vec<Fault>; 2]
    where
        C: Fn(usize, usize) -> f64 + Sync,
    {
        let columns = self.1.as_ref().map(|sums| sums.faults(&c.transposed(), within));
        [self.0.faults(c, within), columns.unwrap_or_default()]
    }
}

/// Numbers as a device holds them.
pub struct Numbers {
    elem: Elem,
    bytes: Vec<u8>,
}

impl Numbers {
    /// A matrix (rows, cols) of f_i(j mod PERIOD) `of_row` + g_j(i mod PERIOD) `of_col`, f and g
    /// uniform in ±1: its products along a side that has one of its own are no small difference of
    /// large terms.
    pub fn draw(
        name: &str,
        elem: Elem,
        [rows, cols]: [usize; 2],
        [of_row, of_col]: [f64; 2],
    ) -> Numbers {
        let some = |side: &str, line: usize, by: f64| -> Vec<f64> {
            let mut rng = Rng::new(line as u64, &format!("{name}, {side}"));
            (0..PERIOD).map(|_| by * (2.0 * rng.uniform() - 1.0)).collect()
        };
        let columns: Vec<Vec<f64>> =
            (0..cols).into_par_iter().map(|j| some("columns", j, of_col)).collect();
        Numbers::of_rows(elem, [rows, cols], |i| {
            let row = some("rows", i, of_row);
            (0..cols).map(|j| row[j % PERIOD] + columns[j][i % PERIOD]).collect()
        })
    }

    /// A matrix (rows, cols) of the nearest to numbers that are given row by row.
    pub fn of_rows(
        elem: Elem,
        [rows, cols]: [usize; 2],
        row: impl Fn(usize) -> Vec<f64> + Sync,
    ) -> Numbers {
        let size = cols * elem.size();
        let mut bytes = vec![0; rows * size];
        let chunks = bytes.par_chunks_mut(size).enumerate();
        chunks.for_each(|(i, to)| to.copy_from_slice(&twin::bytes(elem, &row(i))));
        Numbers { elem, bytes }
    }

    /// What an array holds.
    pub fn of(array: &Array) -> Numbers {
        Numbers { elem: array.elem(), bytes: array.download() }
    }

    pub fn up(&self, engine: &Engine) -> Array {
        engine.upload(self.elem, &self.bytes).unwrap()
    }

    pub fn at(&self, i: usize) -> f64 {
        twin::number(self.elem, self.bytes(i..i + 1))
    }

    /// The bytes of some.
    pub fn bytes(&self, some: Range<usize>) -> &[u8] {
        let size = self.elem.size();
        &self.bytes[some.start * size..some.end * size]
    }

    /// As a matrix, row after row.
    pub fn matrix(
        &self,
        rows: usize,
        cols: usize,
    ) -> Matrix<impl Fn(usize, usize) -> f64 + Sync + '_> {
        Matrix { rows, cols, at: move |i, j| self.at(i * cols + j) }
    }
}

/// The plain product of two drawn matrices (N, K) and (K, M), rounded to f32.
fn drawn() -> (Numbers, Numbers, Vec<f64>) {
    let [n, k, m] = SIZES;
    let a = Numbers::draw("projection, a", Elem::F32, [n, k], [1.0, 0.0]);
    let w = Numbers::draw("projection, w", Elem::F32, [k, m], [1.0, 1.0]);
    let element = |i, j| (0..k).map(|x| a.at(i * k + x) * w.at(x * m + j)).sum::<f64>();
    let c = (0..n * m).map(|at| f64::from(element(at / m, at % m) as f32)).collect();
    (a, w, c)
}

const SIZES: [usize; 3] = [70, 40, 90];
const ROUNDED: Within = Within { size: 0.0, last: U32 };

/// The wrong sums of c along rows, and along columns.
fn found(c: &[f64], within: Within) -> [Vec<Fault>; 2] {
    let ([n, k, m], (a, w, _)) = (SIZES, drawn());
    let c = Matrix { rows: n, cols: m, at: |i, j| c[i * m + j] };
    Product::of(&a.matrix(n, k), &w.matrix(k, m)).faults(&c, within)
}

fn places(faults: &[Fault]) -> Vec<[usize; 2]> {
    faults.iter().map(|f| [f.row, f.block]).collect()
}

#[test]
fn what_is_right_passes() {
    assert!(found(&drawn().2, ROUNDED).iter().all(Vec::is_empty));
}

/// Its neighbour's, nothing, no number: each is found in its row and its column, and nowhere else.
#[test]
fn a_wrong_element_is_found() {
    let (at, right) = (37 * 90 + 70, drawn().2);
    for wrong in [right[at + 1], 0.0, f64::NAN, f64::INFINITY] {
        let mut c = right.clone();
        c[at] = wrong;
        let [rows, columns] = found(&c, ROUNDED);
        assert_eq!([places(&rows), places(&columns)], [[[37, 4]], [[70, 2]]], "{wrong}");
    }
}

/// One as far off as the head of this file says is found, one within its bounds is not.
#[test]
fn a_slightly_wrong_element_is_found() {
    let (at, right) = (37 * 90 + 70, drawn().2);
    let with = |by: f64| {
        let mut c = right.clone();
        c[at] += by;
        found(&c, Within { size: 1e-4, last: 0.0 })
    };
    let bounds = with(1e9).map(|faults| faults[0].bound);
    for (bound, side) in bounds.into_iter().zip([0, 1]) {
        for seen in [2.01 * bound, -2.01 * bound] {
            assert_eq!(with(seen)[side].len(), 1, "{seen:e} beside {bound:e}");
        }
        assert!(with(0.9 * bound)[side].is_empty());
    }
}

/// A tile of another place is found in all of its rows and columns, and nowhere else.
#[test]
fn a_wrong_tile_is_found() {
    let right = drawn().2;
    let mut c = right.clone();
    for (i, j) in (0..16).flat_map(|i| (0..16).map(move |j| (i, j))) {
        c[(40 + i) * 90 + 64 + j] = right[i * 90 + j];
    }
    let [rows, columns] = found(&c, ROUNDED);
    assert_eq!(places(&rows), (40..56).map(|i| [i, 4]).collect::<Vec<_>>());
    assert_eq!(places(&columns), (64..80).flat_map(|j| [[j, 2], [j, 3]]).collect::<Vec<_>>());
}

/// Of a matrix that is symmetric, an element is wrong in two rows.
#[test]
#[should_panic(expected = "planted is wrong; 2 sums in rows 5 to 60, from place 48 of the first")]
fn what_is_wrong_is_named() {
    let n = SIZES[0];
    let a = Numbers::draw("projection, square", Elem::F32, [n, 40], [1.0, 0.0]);
    let a = a.matrix(n, 40);
    let right = |i, j| (0..40).map(|k| (a.at)(i, k) * (a.at)(j, k)).sum::<f64>();
    let at = |i: usize, j: usize| if [i.min(j), i.max(j)] == [5, 60] { 0.0 } else { right(i, j) };
    Product::square(&a).hold("planted", &Matrix { rows: n, cols: n, at }, ROUNDED);
}

/// Bounds as wide as the elements are refused.
#[test]
#[should_panic(expected = "is surely seen")]
fn what_cannot_judge_is_refused() {
    found(&drawn().2, Within { size: 0.1, last: 0.0 });
}
