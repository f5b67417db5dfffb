//! Where a computation runs: a closed set of two.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::compute::{Compute, Precision};
use crate::base::{Error, Result};
use crate::gpu::{self, Engine, Gpu};

/// The processor, or one GPU.
#[derive(Clone, Debug)]
pub enum Device {
    /// The host's processor.
    Cpu,
    /// A GPU that the driver shows. Clones share what runs on it.
    Cuda(Arc<Card>),
}

/// A GPU, and what runs kernels on it once it is needed.
pub struct Card {
    /// As the driver shows it.
    pub gpu: Gpu,
    engine: Mutex<Option<Engine>>,
}

impl Device {
    /// `auto`, `cpu` or `cuda:N`. `auto` is the fastest device that this version is proven on.
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
        let card = |gpu| Device::Cuda(Arc::new(Card { gpu, engine: Mutex::default() }));
        gpus.into_iter().find(|g| g.ordinal == ordinal).map(card).ok_or_else(|| {
            Error::refused(
                format!("--device {name}: the driver shows {shown} GPUs"),
                "see `incise doctor`, or use --device cpu",
            )
        })
    }

    /// What computes on it, in f32; a GPU is started where it is not yet.
    ///
    /// # Errors
    ///
    /// What the driver says; a program without kernels for the card.
    pub fn start(&self) -> Result<Compute> {
        let Device::Cuda(card) = self else { return Ok(Precision::F32.into()) };
        let mut engine = card.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if engine.is_none() {
            *engine = Some(card.gpu.open()?);
        }
        Ok(Compute::Device(engine.clone().expect("just started")))
    }
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.gpu.fmt(f)
    }
}
