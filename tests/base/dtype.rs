//! Rounding to the stored types, against a definition by search.

use half::{bf16, f16};
use incise::base::{DType, Rng};

/// The nearest value of a 16-bit type, the even one of two: tried among the neighbours of a guess.
fn nearest(v: f64, guess: u16, value: impl Fn(u16) -> f64) -> u16 {
    let near = [guess.saturating_sub(1), guess, guess + 1];
    let key = |bits: &u16| ((value(*bits) - v).abs(), bits & 1);
    near.into_iter().min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap()).unwrap()
}

fn narrow(dtype: DType, v: f64) -> u16 {
    let mut bytes = Vec::new();
    dtype.narrow(&[v], &mut bytes);
    u16::from_le_bytes(bytes.try_into().unwrap())
}

/// Values between two neighbours: their middle, and a hair (one unit of f64) to either side.
#[test]
fn ties_and_what_is_beside_them() {
    let bf = |bits: u16| f64::from(bf16::from_bits(bits).to_f32());
    let hf = |bits: u16| f64::from(f16::from_bits(bits).to_f32());
    for bits in (0..0x7BFE).step_by(7) {
        for (dtype, value) in [(DType::BF16, &bf as &dyn Fn(u16) -> f64), (DType::F16, &hf)] {
            let middle = (value(bits) + value(bits + 1)) / 2.0;
            for v in [middle.next_down(), middle, middle.next_up()] {
                let want = nearest(v, bits, value);
                assert_eq!(narrow(dtype, v), want, "{dtype:?} {v:e}");
                assert_eq!(narrow(dtype, -v), want | 0x8000, "{dtype:?} -{v:e}");
            }
        }
    }
}

#[test]
fn any_value() {
    let mut rng = Rng::new(1, "dtype");
    for _ in 0..10_000 {
        let v = rng.normal().abs();
        let value = |bits| f64::from(bf16::from_bits(bits).to_f32());
        let guess = bf16::from_f32(v as f32).to_bits();
        assert_eq!(narrow(DType::BF16, v), nearest(v, guess, value), "{v:e}");
    }
}

#[test]
fn ends_of_the_range() {
    let f16 = |v| f16::from_bits(narrow(DType::F16, v)).to_f32();
    assert_eq!([f16(65519.999), f16(65520.0)], [65504.0, f32::INFINITY]);
    assert!(f16(f64::NAN).is_nan());
    assert_eq!([f16(f64::INFINITY), f16(f64::NEG_INFINITY)], [f32::INFINITY, -f32::INFINITY]);
    let bf = |v| bf16::from_bits(narrow(DType::BF16, v)).to_f32();
    assert_eq!([bf(1e300), bf(-1e300)], [f32::INFINITY, f32::NEG_INFINITY]);
    assert_eq!([bf(1e-300).to_bits(), bf(-1e-300).to_bits()], [0, 0x8000_0000]);
}
