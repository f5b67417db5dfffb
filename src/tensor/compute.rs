//! Where a computation runs, and in which type.

use std::fmt;
use std::time::Instant;

use crate::base::Result;
use crate::gpu::launch::Elem;
use crate::gpu::{Engine, Hold};

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

    /// `f32` or `f64`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F64 => "f64",
        }
    }
}

/// What products and attention on a device read of activations. Sums are f32 either way, and so
/// is whatever a search adds up: the stream, its gradient, statistics of norms, logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// f32, which products take as two bf16: to 2⁻¹⁷.
    Exact,
    /// The nearest bf16, to 2⁻⁹: half the memory, and half the work or less.
    Fast,
}

impl Products {
    /// The type of what they read.
    pub fn elem(self) -> Elem {
        match self {
            Products::Exact => Elem::F32,
            Products::Fast => Elem::BF16,
        }
    }
}

/// The host, or a device, which computes in f32.
#[derive(Clone)]
pub enum Compute {
    /// The host's processor.
    Host(Precision),
    /// What runs our kernels.
    Device(Engine, Products),
}

impl Compute {
    /// The type.
    pub fn precision(&self) -> Precision {
        match self {
            Compute::Host(precision) => *precision,
            Compute::Device(..) => Precision::F32,
        }
    }

    /// Bytes of an element that products read.
    pub fn narrow_size(&self) -> usize {
        match self {
            Compute::Host(precision) => precision.size(),
            Compute::Device(_, products) => products.elem().size(),
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
            Compute::Device(engine, _) => engine.seconds(run),
        }
    }

    /// What results depend on, as a stable name for keys of kept work: `host f32`, `device exact`,
    /// `device fast, ` and the library that multiplies.
    pub fn name(&self) -> String {
        match self {
            Compute::Host(Precision::F32) => "host f32".to_owned(),
            Compute::Host(Precision::F64) => "host f64".to_owned(),
            Compute::Device(engine, products) => {
                let products = match products {
                    Products::Exact => "exact",
                    Products::Fast => "fast",
                };
                let library = engine.blaslt().map(|lt| format!(", {}", lt.title()));
                format!("device {products}{}", library.unwrap_or_default())
            }
        }
    }

    /// The device, if it is one.
    pub fn engine(&self) -> Option<&Engine> {
        match self {
            Compute::Host(_) => None,
            Compute::Device(engine, _) => Some(engine),
        }
    }

    /// Holds the device for this thread until the hold is dropped: [`Engine::hold`]. On the host
    /// there is nothing to hold.
    pub fn hold(&self) -> Option<Hold<'_>> {
        self.engine().map(Engine::hold)
    }

    /// Runs a computation, all of it on this thread. It holds the device meanwhile, and an error
    /// that unwinds from inside becomes its result: [`Engine::run`]. Every public entry that
    /// computes runs so.
    ///
    /// # Errors
    ///
    /// The computation's own; the device's.
    pub fn run<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.engine() {
            Some(engine) => engine.run(run),
            None => run(), // which throws nothing
        }
    }

    /// The same device with kernels of ours alone, where a library multiplies too.
    pub fn own(&self) -> Option<Compute> {
        match self {
            Compute::Device(engine, products) if engine.blaslt().is_some() => {
                Some(Compute::Device(engine.own(), *products))
            }
            _ => None,
        }
    }

    /// The same, with fast products on a device.
    pub fn fast(&self) -> Compute {
        match self {
            Compute::Device(engine, _) => Compute::Device(engine.clone(), Products::Fast),
            host => host.clone(),
        }
    }
}

/// With exact products.
impl From<Engine> for Compute {
    fn from(engine: Engine) -> Compute {
        Compute::Device(engine, Products::Exact)
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

impl fmt::Debug for Compute {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.name())
    }
}
