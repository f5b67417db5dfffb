//! Element types of stored tensors, and exact conversion to and from them.

use half::{bf16, f16};

use super::Float;

/// The element type of a stored tensor. The names are those of the safetensors format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// The name the safetensors format uses.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
        }
    }

    /// The type of that name, if it is one we compute with.
    pub fn parse(name: &str) -> Option<DType> {
        [DType::F32, DType::F16, DType::BF16].into_iter().find(|t| t.name() == name)
    }

    /// Widens little-endian `bytes` into `out`; exact for `f32` and `f64`.
    ///
    /// The bytes need no alignment: the data of a safetensors file may start anywhere.
    pub fn widen<T: Float>(self, bytes: &[u8], out: &mut [T]) {
        assert_eq!(bytes.len(), out.len() * self.size(), "widen: bytes do not fit the output");
        pulp::Arch::new().dispatch(|| match self {
            DType::F32 => each(bytes, out, f32::from_le_bytes),
            // Not `half`'s own: bf16 is a shift, which the compiler turns into vector code.
            DType::BF16 => each(bytes, out, |b: [u8; 2]| {
                f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
            }),
            DType::F16 => each(bytes, out, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
        });
    }

    /// Rounds `values` to this type, to nearest even, and appends their little-endian bytes.
    pub fn narrow(self, values: &[f64], out: &mut Vec<u8>) {
        out.reserve(values.len() * self.size());
        for &v in values {
            match self {
                DType::F32 => out.extend_from_slice(&(v as f32).to_le_bytes()),
                DType::BF16 => out.extend_from_slice(&bf16::from_f32(odd(v)).to_le_bytes()),
                DType::F16 => out.extend_from_slice(&f16::from_f32(odd(v)).to_le_bytes()),
            }
        }
    }
}

/// `v` rounded to odd: where it lies between two neighbours, the one whose last bit is 1. Rounding
/// that to a type at least two bits narrower gives what rounding `v` itself would; rounding to
/// nearest twice does not, nor do `half`'s conversions from `f64` on every machine (Boldo and
/// Melquiond 2008, "Emulation of a FMA and correctly rounded sums").
fn odd(v: f64) -> f32 {
    let near = v as f32;
    if f64::from(near) == v || v.is_nan() {
        return near;
    }
    let beyond = f64::from(near).abs() > v.abs();
    f32::from_bits((near.to_bits() - u32::from(beyond)) | 1)
}

#[inline(always)]
fn each<T: Float, const B: usize>(bytes: &[u8], out: &mut [T], get: impl Fn([u8; B]) -> f32) {
    let (packets, _) = bytes.as_chunks::<B>();
    for (o, b) in out.iter_mut().zip(packets) {
        *o = T::from_f32(get(*b));
    }
}
