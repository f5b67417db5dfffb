//! What hardware does as a warp or with a number: the layouts and the rounding that `ptx.cuh` and
//! the kernels' headers state. On a card where there is one.

use half::{bf16, f16};
use incise::base::Rng;
use incise::gpu::Array;
use incise::gpu::kernels::probe::{FILE, Rounded, THREADS};
use incise::gpu::launch::{Argument, Elem, Grid};
use incise::ops::proof::known_answers;
use incise::ops::proof::probe::product;

use crate::support::twin;

fn pointer(name: &'static str, to: &'static str, array: &Array) -> Argument {
    Argument::Pointer { name, to, slice: array.slice() }
}

#[test]
fn fragments_lie_as_stated() {
    let Some(engines) = twin::engines("gpu::probe::fragments_lie_as_stated") else { return };
    for (name, engine) in &engines {
        for known in known_answers().filter(|known| known.file == "probe") {
            assert_eq!(known.ask(engine), None, "{name}");
        }
    }
}

/// A tensor core adds a product's 16 terms and c at once and cuts off what is below the last of at
/// least 24 bits of the largest: each of 17 numbers loses less than 2⁻²³ of it.
#[test]
fn tensor_cores_add_as_stated() {
    let Some(engines) = twin::engines("gpu::probe::tensor_cores_add_as_stated") else { return };
    let mut rng = Rng::new(0, "accumulators");
    for (name, engine) in &engines {
        let mut worst = 0.0f64;
        for _ in 0..20 {
            let [a, b] = [(); 2].map(|()| (0..256).map(|_| rng.normal()).collect::<Vec<_>>());
            let [a, b] = [a, b].map(|x| twin::rounded(Elem::BF16, &x));
            let c: Vec<f64> = (0..256).map(|_| 64.0 * rng.normal()).collect();
            let c = twin::rounded(Elem::F32, &c);
            let arrays = [&a, &b].map(|x| twin::up(engine, Elem::BF16, x));
            let sum = twin::up(engine, Elem::F32, &c);
            let arguments = [
                pointer("a", "elem", &arrays[0]),
                pointer("b", "elem", &arrays[1]),
                Argument::i32(0),
                pointer("c", "float", &sum),
            ];
            engine.launch(&FILE, "loaded", Grid::line(1, 32), &arguments);
            let want = product([16; 3], &c, &a, |k, n| b[k * 16 + n]);
            for (at, (got, want)) in twin::down(&sum).iter().zip(want).enumerate() {
                let term = |k: usize| (a[at / 16 * 16 + k] * b[k * 16 + at % 16]).abs();
                let largest = (0..16).map(term).fold(c[at].abs(), f64::max);
                worst = worst.max((got - want).abs() / largest);
            }
        }
        println!("{name}: off by {:.2} units of 2⁻²³ of the largest term", worst * 8_388_608.0);
        assert!(worst <= 17.0 / 8_388_608.0, "{name}: {worst:e}");
    }
}

/// To nearest even, with every exponent, and at ties.
#[test]
fn numbers_are_rounded_to_nearest_even() {
    let Some(engines) = twin::engines("gpu::probe::numbers_are_rounded") else { return };
    let upper = (0..=u16::MAX).step_by(7).map(u32::from);
    let bits = upper.flat_map(|u| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|l| u << 16 | l));
    let half = (0..=u16::MAX).step_by(7).map(|h| f16::from_bits(h).to_f32().to_bits());
    let ties = half.flat_map(|b| [b, b + 0x1000, b + 0x0fff, b.wrapping_sub(0x1000)]);
    let all: Vec<f32> = bits.chain(ties).map(f32::from_bits).filter(|x| !x.is_nan()).collect();
    for (name, engine) in engines.iter().filter(|(name, _)| !name.contains("thread")) {
        let x = engine.upload(Elem::F32, bytemuck::cast_slice(&all)).unwrap();
        for elem in [Elem::BF16, Elem::F16] {
            let mut y = engine.array(elem, all.len()).unwrap();
            let mut back = engine.array(Elem::F32, all.len()).unwrap();
            let n = all.len() as i32;
            Rounded { x: x.read(), n, y: y.write(), back: back.write() }
                .launch(engine, Grid::each(all.len(), THREADS));
            let want = |&x: &f32| match elem {
                Elem::BF16 => (bf16::from_f32(x).to_bits(), bf16::from_f32(x).to_f32()),
                _ => (f16::from_f32(x).to_bits(), f16::from_f32(x).to_f32()),
            };
            let bytes = y.download();
            let got = bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
            let got = got.zip(twin::down(&back));
            for ((got, back), x) in got.zip(&all) {
                let (bits, wide) = want(x);
                assert!(got == bits && back == f64::from(wide), "{name}: {x:e} became {got:x}");
            }
        }
    }
}
