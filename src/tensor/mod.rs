//! Floor 2: where numbers live. Activations are [`Tensor`]s, frozen matrices are [`Weight`]s.

pub mod device;
#[allow(clippy::module_inception)]
pub mod tensor;
pub mod weight;

pub use device::Device;
pub use tensor::{Precision, Tensor};
pub use weight::{Layout, Panel, Weight};

/// Asserts that tensors have the shapes the operation needs, naming operation and operand.
macro_rules! shapes {
    ($op:literal: $($t:expr => [$($d:expr),+]),+ $(,)?) => {
        $(assert_eq!(
            $t.shape(), &[$($d),+][..],
            concat!($op, ": ", stringify!($t), " does not have the shape ", stringify!([$($d),+])),
        );)+
    };
}
pub(crate) use shapes;

/// Runs an expression with `T` bound to the tensor's own element type.
macro_rules! on_float {
    ($tensor:expr, $t:ident => $body:expr) => {
        match $tensor.precision() {
            $crate::tensor::Precision::F32 => {
                type $t = f32;
                $body
            }
            $crate::tensor::Precision::F64 => {
                type $t = f64;
                $body
            }
        }
    };
}
pub(crate) use on_float;
