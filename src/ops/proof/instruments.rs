//! What a device's instruments are worth, as far as the kernels' bounds rest on it.
//!
//! ```text
//! accumulators   1 + 2⁻ʲ − 1 on tensor cores is 2⁻ʲ up to some j: they keep j + 1 bits of the
//!                largest number they add; `kernels/linear_mma.cu` asks for 24
//! functions      units of the last place by which expf and erfcf are off at most; the bounds of
//!                `kernels/act.cu` and of attention ask for 2 and 4
//! ```

use std::fmt;

use super::numbers::{decode, encode};
use super::trial::Wrong;
use crate::base::Result;
use crate::gpu::Engine;
use crate::gpu::kernels::probe::{Functions, Loaded, THREADS};
use crate::gpu::launch::{Elem, Grid};

/// Points at which functions are measured.
const POINTS: usize = 1 << 14;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Instruments {
    /// Bits of the largest number that accumulators of tensor cores keep.
    pub accumulator_bits: usize,
    /// Units of the last place by which expf is off at most.
    pub exp_ulp: f64,
    /// The same of erfcf.
    pub erfc_ulp: f64,
}

impl fmt::Display for Instruments {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Instruments { accumulator_bits, exp_ulp, erfc_ulp } = self;
        write!(
            f,
            "accumulators keep {accumulator_bits} bits, expf is off by at most {exp_ulp:.2} ulp "
        )?;
        write!(f, "and erfcf by {erfc_ulp:.2}")
    }
}

impl Instruments {
    /// Measures a device.
    ///
    /// # Errors
    ///
    /// The device has no more memory.
    pub fn measure(engine: &Engine) -> Result<Instruments> {
        let [exp_ulp, erfc_ulp] = functions(engine)?;
        Ok(Instruments { accumulator_bits: accumulator_bits(engine)?, exp_ulp, erfc_ulp })
    }

    /// What is worse than the kernels' bounds ask for.
    pub fn fault(&self) -> Option<Wrong> {
        let Instruments { accumulator_bits, exp_ulp, erfc_ulp } = *self;
        let wrong = |kernel, what| Some(Wrong { kernel, trial: String::new(), what });
        match () {
            () if accumulator_bits < 24 => {
                wrong("loaded", format!("accumulators keep {accumulator_bits} bits, should be 24"))
            }
            () if exp_ulp > 2.0 => wrong(
                "functions",
                format!("expf is off by {exp_ulp:.2} ulp, should be by at most 2"),
            ),
            () if erfc_ulp > 4.0 => wrong(
                "functions",
                format!("erfcf is off by {erfc_ulp:.2} ulp, should be by at most 4"),
            ),
            () => None,
        }
    }
}

/// Row i of a (16, 16) has 2⁻ʲ, j = 16 + i, and −1; b has ones, c too.
fn accumulator_bits(engine: &Engine) -> Result<usize> {
    let first = 16;
    let small = |row: usize| f64::powi(2.0, -((first + row) as i32));
    let a = |at: usize| match at % 16 {
        0 => small(at / 16),
        1 => -1.0,
        _ => 0.0,
    };
    let a: Vec<f64> = (0..256).map(a).collect();
    let [a, b] = [&a, &vec![1.0; 256]].map(|x| engine.upload(Elem::BF16, &encode(Elem::BF16, x)));
    let (a, b) = (a?, b?);
    let mut c = engine.upload(Elem::F32, &encode(Elem::F32, &[1.0; 256]))?;
    Loaded { a: a.read(), b: b.read(), along_k: 0, c: c.update() }
        .launch(engine, Grid::line(1, 32));
    let sums = decode(Elem::F32, &c.download());
    let kept = (0..16).take_while(|&row| sums[row * 16..][..16].iter().all(|&x| x == small(row)));
    Ok(first + kept.count())
}

/// The largest errors of expf and erfcf, from −9 to 9.
fn functions(engine: &Engine) -> Result<[f64; 2]> {
    let step = 18.0 / POINTS as f64;
    let x: Vec<f64> = (0..POINTS).map(|i| f64::from((i as f64 * step - 9.0) as f32)).collect();
    let there = engine.upload(Elem::F32, &encode(Elem::F32, &x))?;
    let [mut e, mut c] = [engine.array(Elem::F32, POINTS)?, engine.array(Elem::F32, POINTS)?];
    Functions { x: there.read(), n: POINTS as i32, e: e.write(), c: c.write() }
        .launch(engine, Grid::each(POINTS, THREADS));
    let worst = |got: Vec<f64>, want: fn(f64) -> f64| {
        let off = |(got, x): (f64, &f64)| (got - want(*x)).abs() / ulp(want(*x));
        let each = got.into_iter().zip(&x).map(off);
        each.fold(0.0, |a: f64, b| if b.is_nan() { f64::INFINITY } else { a.max(b) })
    };
    let down = |array: &crate::gpu::Array| decode(Elem::F32, &array.download());
    Ok([worst(down(&e), f64::exp), worst(down(&c), libm::erfc)])
}

/// From an f32 to the next, about a number.
fn ulp(x: f64) -> f64 {
    let exponent = (x as f32).to_bits() >> 23 & 0xff;
    f64::powi(2.0, exponent.max(1) as i32 - 150)
}
