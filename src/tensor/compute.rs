//! Where a computation runs, and in which type.

use std::fmt;
use std::time::Instant;

use crate::gpu::Engine;

/// The type a computation on the host runs in: `F32` for work, `F64` for oracles and gradient
/// checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

impl Precision {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::F64 => 8,
        }
    }
}

/// The host, or a device, which computes in f32.
#[derive(Clone)]
pub enum Compute {
    /// The host's processor.
    Host(Precision),
    /// What runs our kernels.
    Device(Engine),
}

impl Compute {
    /// The type.
    pub fn precision(&self) -> Precision {
        match self {
            Compute::Host(precision) => *precision,
            Compute::Device(_) => Precision::F32,
        }
    }

    /// How long a computation takes, in seconds.
    pub fn seconds(&self, run: impl FnOnce()) -> f64 {
        match self {
            Compute::Host(_) => {
                let began = Instant::now();
                run();
                began.elapsed().as_secs_f64()
            }
            Compute::Device(engine) => engine.seconds(run),
        }
    }

    /// The device, if it is one.
    pub fn engine(&self) -> Option<&Engine> {
        match self {
            Compute::Host(_) => None,
            Compute::Device(engine) => Some(engine),
        }
    }
}

impl From<Precision> for Compute {
    fn from(precision: Precision) -> Compute {
        Compute::Host(precision)
    }
}

impl From<&Compute> for Compute {
    fn from(compute: &Compute) -> Compute {
        compute.clone()
    }
}

/// `F32`, `F64`, or `Device`: what results depend on.
impl fmt::Debug for Compute {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Compute::Host(precision) => precision.fmt(f),
            Compute::Device(_) => f.write_str("Device"),
        }
    }
}
