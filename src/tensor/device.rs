//! Where a computation runs: a closed set of two.

use crate::base::{Error, Result};
use crate::gpu::{self, Gpu};

/// The processor, or one GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// The host's processor.
    Cpu,
    /// A GPU that the driver shows.
    Cuda(Gpu),
}

impl Device {
    /// `auto`, `cpu` or `cuda:N`. `auto` is the fastest device that this version computes on.
    pub fn parse(name: &str) -> Result<Device> {
        if name == "auto" || name == "cpu" {
            return Ok(Device::Cpu);
        }
        let Some(ordinal) = name.strip_prefix("cuda:").and_then(|n| n.parse::<usize>().ok()) else {
            return Err(Error::refused(
                format!("--device {name}: no such device"),
                "say auto, cpu or cuda:N with N from 0",
            ));
        };
        let gpus = gpu::gpus();
        let shown = gpus.len();
        gpus.into_iter().find(|g| g.ordinal == ordinal).map(Device::Cuda).ok_or_else(|| {
            Error::refused(
                format!("--device {name}: the driver shows {shown} GPUs"),
                "see `incise doctor`, or use --device cpu",
            )
        })
    }

    /// Refuses a device that nothing computes on yet.
    pub fn ready(&self) -> Result<()> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(gpu) => Err(Error::refused(
                format!("cuda:{} ({}): this version has no CUDA engine", gpu.ordinal, gpu.name),
                "use --device cpu",
            )),
        }
    }
}
