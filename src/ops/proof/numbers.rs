//! Numbers that known answers are made of, and their bytes.
//!
//! A number is a hash of its series and its place: no two places of a matrix are alike but by
//! chance, so what is read from a wrong one shows. Most are whole, and so few and small that sums
//! of their products are exact in f32 in any order, also where tensor cores cut off what is below
//! 2⁻²³ of the largest: whatever such a sum is off by is a fault, and no rounding.

use half::{bf16, f16};

use crate::base::DType;
use crate::gpu::launch::Elem;

/// Whole numbers below which sums are exact wherever a kernel makes them.
pub const EXACT: f64 = (1u32 << 23) as f64;

/// The unit roundoff of f32.
pub const U: f64 = f32::EPSILON as f64 / 2.0;

/// 64 bits for a place of a series (the finaliser of SplitMix64; Steele, Lea, Flood 2014).
pub fn hash(series: u64, place: usize) -> u64 {
    let mut z = (series << 40 | place as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// n whole numbers from −most to most.
pub fn whole(series: u64, n: usize, most: u64) -> Vec<f64> {
    let number = |i| (hash(series, i) % (2 * most + 1)) as f64 - most as f64;
    (0..n).map(number).collect()
}

/// n whole numbers of which one in eight needs two bf16: an odd one from ±257 to ±383, of which ±1
/// is left, or one from ±513 to ±639, of which ±1 or ±2 is. The others are at most 4.
pub fn of_two_parts(series: u64, n: usize) -> Vec<f64> {
    let number = |i| {
        let bits = hash(series, i);
        let sign = if bits & 1 == 0 { 1.0 } else { -1.0 };
        let size = match bits >> 1 & 15 {
            0 => 257 + 2 * (bits >> 8 & 63),
            1 => 513 + 4 * (bits >> 8 & 31) + (bits >> 16) % 3,
            _ => (bits >> 8) % 5,
        };
        sign * size as f64
    };
    (0..n).map(number).collect()
}

/// Whole numbers for a side of a product: of two parts where the type has two on tensor cores.
pub fn factor(series: u64, n: usize, elem: Elem) -> Vec<f64> {
    if elem == Elem::BF16 { whole(series, n, 9) } else { of_two_parts(series, n) }
}

/// What is left of numbers where the nearest bf16 is taken off.
pub fn low(values: &[f64]) -> Vec<f64> {
    values.iter().map(|&x| x - rounded(Elem::BF16, x)).collect()
}

/// The nearest of a type.
pub fn rounded(elem: Elem, x: f64) -> f64 {
    match elem {
        Elem::F32 => f64::from(x as f32),
        Elem::BF16 | Elem::F16 => decode(elem, &encode(elem, &[x]))[0],
        Elem::F64 | Elem::I32 | Elem::U8 => x,
    }
}

/// Values in the bytes of a type, to the nearest.
pub fn encode(elem: Elem, values: &[f64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * elem.size());
    match elem {
        Elem::F32 => DType::F32.narrow(values, &mut bytes),
        Elem::BF16 => DType::BF16.narrow(values, &mut bytes),
        Elem::F16 => DType::F16.narrow(values, &mut bytes),
        Elem::F64 => bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        Elem::I32 => bytes.extend(values.iter().flat_map(|&x| (x as i32).to_le_bytes())),
        Elem::U8 => bytes.extend(values.iter().map(|&x| x as u8)),
    }
    bytes
}

/// The values of a type's bytes.
pub fn decode(elem: Elem, bytes: &[u8]) -> Vec<f64> {
    let number = |b: &[u8]| match elem {
        Elem::F32 => f64::from(bytemuck::pod_read_unaligned::<f32>(b)),
        Elem::BF16 => bf16::from_bits(bytemuck::pod_read_unaligned(b)).to_f64(),
        Elem::F16 => f16::from_bits(bytemuck::pod_read_unaligned(b)).to_f64(),
        Elem::F64 => bytemuck::pod_read_unaligned(b),
        Elem::I32 => f64::from(bytemuck::pod_read_unaligned::<i32>(b)),
        Elem::U8 => f64::from(b[0]),
    };
    bytes.chunks_exact(elem.size()).map(number).collect()
}
