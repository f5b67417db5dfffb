//! Products by cuBLASLt: which they are, and on a card with the library, what they are worth.

use incise::gpu::Engine;
use incise::gpu::blaslt::Shape;
use incise::gpu::launch::{DeviceSlice, Elem};
use incise::ops::cuda::linear as cuda;
use incise::tensor::Layout;

use super::{Linear, Lying};
use crate::support::budget::{self, Op, lost};
use crate::support::toy::{Draw, PLAIN};
use crate::support::twin;

/// Which way a product goes is a matter of types, sizes and addresses; not of rows.
#[test]
fn gets_what_suits_it() {
    let slice = |elem, at| DeviceSlice { at, len: 0, elem };
    let (f32s, bf16s) = (Elem::F32, Elem::BF16);
    let ask = |elems: [Elem; 3], at: [u64; 4], sizes, strides| {
        let b = (at[3] > 0).then(|| slice(f32s, at[3]));
        let all = [0, 1, 2].map(|i| slice(elems[i], at[i]));
        cuda::library(all, b, sizes, strides)
    };
    let (types, at, sizes) = ([f32s, bf16s, f32s], [16, 32, 512, 0], [40, 24]);
    let along_k = Shape { k: 40, m: 24, stride: 48, along_k: true, biased: false, narrow: false };
    assert_eq!(ask(types, at, sizes, [1, 48]), Some(along_k));
    let along_m = Shape { stride: 24, along_k: false, ..along_k };
    assert_eq!(ask(types, at, sizes, [24, 1]), Some(along_m));
    let biased = Shape { biased: true, ..along_m };
    assert_eq!(ask(types, [16, 32, 512, 48], sizes, [24, 1]), Some(biased));
    assert_eq!(ask([bf16s, bf16s, f32s], at, sizes, [1, 48]), Some(along_k));
    let narrow = Shape { narrow: true, ..along_k };
    assert_eq!(ask([bf16s; 3], at, sizes, [1, 48]), Some(narrow));
    assert!(ask([bf16s; 3], at, [40, 20], [1, 40]).is_none(), "20 columns of bf16");
    // Four columns of f32 are 16 bytes, of bf16 they are not.
    assert!(ask(types, at, [40, 20], [1, 40]).is_some());
    assert!(ask(types, at, [40, 20], [20, 1]).is_none());
    for (elems, at, sizes, strides) in [
        ([f32s, f32s, f32s], at, sizes, [1, 40]),
        ([f32s, Elem::F16, f32s], at, sizes, [1, 40]),
        ([f32s, bf16s, bf16s], at, sizes, [1, 40]),
        (types, [8, 32, 512, 0], sizes, [1, 40]),
        (types, [16, 34, 512, 0], sizes, [1, 40]),
        (types, [16, 32, 516, 0], sizes, [1, 40]),
        (types, [16, 32, 512, 4], sizes, [1, 40]),
        (types, at, [36, 24], [1, 40]),
        (types, at, [40, 22], [1, 40]),
        (types, at, sizes, [1, 44]),
        (types, at, sizes, [2, 80]),
        (types, at, [0, 24], [1, 40]),
        (types, at, [1, 1], [1, 1]),
    ] {
        let got = ask(elems, at, sizes, strides);
        assert_eq!(got, None, "{elems:?} {at:?} {sizes:?} {strides:?}");
    }
}

/// How W lies, what is multiplied with it, and whether the result is rounded to that.
const BY_LIBRARY: [(Layout, Elem, bool); 5] = [
    (Layout::OutIn, Elem::F32, false),
    (Layout::InOut, Elem::F32, false),
    (Layout::OutIn, Elem::BF16, false),
    (Layout::InOut, Elem::BF16, true),
    (Layout::OutIn, Elem::BF16, true),
];

fn suitable((layout, elem, rounded): (Layout, Elem, bool)) -> Lying {
    Lying { rounded, ..Lying::plain((elem, Elem::BF16), layout) }
}

/// A case as the library takes it: a bias is of the result's type.
fn draw(draw: &mut Draw, shape: [usize; 3], lying: &Lying) -> Linear {
    let case = Linear::draw(draw, shape, PLAIN).rounded(lying);
    Linear { b: case.b.map(|b| twin::rounded(lying.to(), &b)), ..case }
}

/// A library that takes none of these products would leave them to our kernels.
pub(super) fn multiplied(card: &Engine) {
    let shapes = card.blaslt().unwrap().shapes();
    assert!(!shapes.is_empty() && shapes.iter().all(|(_, served)| *served), "{shapes:?}");
}

#[test]
fn products() {
    let test = "ops::linear::library::products";
    let Some(card) = twin::library(test, |e| e.blaslt().is_some()) else { return };
    let engines = [("cuBLASLt".to_owned(), card.clone())];
    let shapes = [[9, 8, 8], [65, 64, 96], [130, 48, 40], [257, 264, 72]];
    for (way, shape) in BY_LIBRARY.into_iter().flat_map(|way| shapes.map(|shape| (way, shape))) {
        let lying = suitable(way);
        budget::kernel_besides(
            &format!("linear by cuBLASLt, {shape:?}, {lying:?}"),
            &engines,
            &[lying.to(); 2],
            |draw| self::draw(draw, shape, &lying),
            |case, engine| case.kernels(engine, &lying),
            |case| {
                let largest = |x: Vec<f64>| x.into_iter().fold(0.0, f64::max);
                let sizes = case.sizes().plain().into_iter().map(largest);
                let lost = [shape[2], shape[1]].map(lost);
                sizes.zip(lost).map(|(size, lost)| (lying.split() + lost) * size).collect()
            },
        );
    }
    multiplied(&card);
}

/// Large ones against our kernels, which lose no more: parts, sums, and what is rounded besides.
/// The first has more rows than there is room for parts.
#[test]
fn large_products() {
    let test = "ops::linear::library::large_products";
    let Some(card) = twin::library(test, |e| e.blaslt().is_some()) else { return };
    let shapes = [[2100, 16, 16384], [4099, 512, 1032], [1000, 1024, 4096], [333, 8, 2048]];
    for (shape, way) in shapes.into_iter().zip(BY_LIBRARY) {
        let lying = suitable(way);
        let case = draw(&mut Draw::new("linear, large", true), shape, &lying);
        let [got, want] = [card.clone(), card.own()].map(|engine| case.kernels(&engine, &lying));
        let sizes = case.sizes().kernels(&card.own(), &lying);
        for (i, k) in [shape[2], shape[1]].into_iter().enumerate() {
            let each = f64::powi(2.0, -17) + lost(k) + f64::powi(2.0, -21);
            for (at, ((got, want), size)) in got[i].iter().zip(&want[i]).zip(&sizes[i]).enumerate()
            {
                // What is added besides is rounded too: a bias, or what was there.
                let last = if lying.rounded { f64::powi(2.0, -8) * want.abs() } else { 0.0 };
                let bound = 2.0 * each * (size + 8.0) + last;
                assert!((got - want).abs() <= bound, "{shape:?} {lying:?} {at}: {got} {want}");
            }
        }
    }
    multiplied(&card);
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    let test = "ops::linear::library::rows_do_not_depend_on_their_neighbours";
    let Some(card) = twin::library(test, |e| e.blaslt().is_some()) else { return };
    for (way, shape) in BY_LIBRARY
        .into_iter()
        .flat_map(|way| [[4500, 768, 256], [4500, 64, 1024]].map(|s| (way, s)))
    {
        let lying = suitable(way);
        let [all, out, inner] = shape;
        let case = draw(&mut Draw::new("linear, library, neighbours", true), shape, &lying);
        let whole = case.kernels(&card, &lying);
        let few = [9, 10, 17, 48, 49, 64, 65, 127, 128, 129, 255, 257, 1000, 2049, 4097];
        let tops = few.into_iter().map(|n| 0..n);
        for rows in tops.chain([1..10, 7..71, 100..1100, 1000..all]) {
            let some = case.part(rows.clone()).kernels(&card, &lying);
            for ((some, whole), width) in some.iter().zip(&whole).zip([out, inner]) {
                let same = some[..] == whole[rows.start * width..rows.end * width];
                assert!(same, "{lying:?} {shape:?}, rows {rows:?}");
            }
        }
    }
    multiplied(&card);
}
