//! Floor 2: where numbers live. Activations are [`Tensor`]s, frozen matrices are [`Weight`]s.

pub mod compute;
pub mod device;
#[allow(clippy::module_inception)]
pub mod tensor;
pub mod weight;

pub use compute::{Compute, Precision, Products};
pub use device::Device;
pub use tensor::Tensor;
pub use weight::{DeviceElements, Layout, OnDevice, Panel, Weight};

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

/// Runs the definition, with `T` bound to the tensor's own element type, or on the tensor's device
/// the launch.
macro_rules! on {
    ($tensor:expr, host $t:ident => $host:expr, device $engine:ident => $device:expr $(,)?) => {
        match $tensor.engine() {
            Some($engine) => $device,
            None => match $tensor.precision() {
                $crate::tensor::Precision::F32 => {
                    type $t = f32;
                    $host
                }
                $crate::tensor::Precision::F64 => {
                    type $t = f64;
                    $host
                }
            },
        }
    };
}
pub(crate) use on;
