//! Where a computation runs: a closed set of two.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::compute::{Compute, Precision};
use crate::base::{Error, Operation, Remedy, Result};
use crate::gpu::{self, Engine, Gpu};

/// The processor, or GPUs.
#[derive(Clone, Debug)]
pub enum Device {
    /// The host's processor.
    Cpu,
    /// GPUs that the driver shows; they share the work. Clones share what runs on them.
    Cuda(Arc<[Card]>),
    /// Whichever of them is chosen where a model is first opened: the processor until then.
    Auto(Arc<OnceLock<Device>>),
}

/// A GPU, and what runs kernels on it once it is needed.
pub struct Card {
    /// As the driver shows it.
    pub gpu: Gpu,
    engine: Mutex<Option<Engine>>,
    in_use: bool,      // by who made the device of it: it is taken as it is
    asking: Mutex<()>, // by the thread that asks whether it computes what it should
}

impl Device {
    /// `auto`, `cpu`, `cuda:N`, or several, `cuda:0,1`. `auto` is the first GPU where that proves
    /// itself, else the processor.
    pub fn parse(name: &str) -> Result<Device> {
        match name {
            "auto" => return Ok(Device::Auto(Arc::default())),
            "cpu" => return Ok(Device::Cpu),
            _ => {}
        }
        let number = |n: &str| n.parse::<usize>().ok();
        let numbers = name.strip_prefix("cuda:").map(|rest| rest.split(',').map(number));
        let numbers: Option<Vec<usize>> = numbers.and_then(Iterator::collect);
        let Some(numbers) = numbers else {
            return Err(Error::refused(
                format!("device {name}: no such device"),
                "use auto, cpu, cuda:N with N from 0, or several as cuda:0,1",
            ));
        };
        let gpus = gpu::gpus();
        let card = |(i, n): (usize, &usize)| {
            let gpu = gpus.iter().find(|g| g.ordinal == *n && !numbers[..i].contains(n))?.clone();
            Some(Card::new(gpu))
        };
        let cards: Option<Vec<Card>> = numbers.iter().enumerate().map(card).collect();
        cards.map(|cards| Device::Cuda(cards.into())).ok_or_else(|| {
            let count = gpus.len();
            let what =
                format!("device {name}: the driver shows {count} GPUs, each to be named once");
            let remedy = Remedy::from("see what the machine offers, or compute on the CPU")
                .operation(Operation::Doctor)
                .option("device", Some("cpu"));
            Error::device(what, remedy)
        })
    }

    /// What it is now: of a device that is yet to be chosen, the processor.
    pub fn now(&self) -> &Device {
        match self {
            Device::Auto(chosen) => chosen.get().unwrap_or(&Device::Cpu),
            device => device,
        }
    }

    /// `cpu`, or the names of the GPUs, each once.
    pub fn title(&self) -> String {
        match self.now() {
            Device::Cpu | Device::Auto(_) => "cpu".to_owned(),
            Device::Cuda(cards) => {
                let mut names: Vec<&str> = cards.iter().map(|card| &*card.gpu.name).collect();
                names.dedup();
                names.join(", ")
            }
        }
    }

    /// What computes on it, in f32; GPUs are started where they are not yet.
    ///
    /// # Errors
    ///
    /// The driver's; a program without kernels for a card; a build that aborts on panic.
    pub fn start(&self) -> Result<Vec<Compute>> {
        match self.now() {
            Device::Cpu | Device::Auto(_) => Ok(vec![Precision::F32.into()]),
            Device::Cuda(cards) => cards.iter().map(|card| Ok(card.start()?.into())).collect(),
        }
    }
}

/// A device that runs already.
impl From<Engine> for Device {
    fn from(engine: Engine) -> Device {
        let name = "a GPU in use".to_owned();
        let memory = engine.memory().limit as usize;
        let gpu = Gpu { ordinal: 0, name, memory, capability: (0, 0) };
        let card = Card { engine: Mutex::new(Some(engine)), in_use: true, ..Card::new(gpu) };
        Device::Cuda([card].into())
    }
}

/// A GPU alone.
impl From<Gpu> for Device {
    fn from(gpu: Gpu) -> Device {
        Device::Cuda([Card::new(gpu)].into())
    }
}

impl Card {
    fn new(gpu: Gpu) -> Card {
        Card { gpu, engine: Mutex::default(), in_use: false, asking: Mutex::default() }
    }

    /// Started, and asked if nobody has asked it: one thread asks, others wait for the answer.
    /// One that ran before a device was made of it is taken as it is.
    ///
    /// # Errors
    ///
    /// The driver's, and those of `ask`.
    pub fn proven(&self, ask: impl FnOnce(&Gpu, &Engine) -> Result<()>) -> Result<Engine> {
        let engine = self.start()?;
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.in_use && engine.proof().is_none() {
            ask(&self.gpu, &engine)?;
        }
        Ok(engine)
    }

    /// What runs kernels on it, started where it is not yet.
    ///
    /// # Errors
    ///
    /// The driver's.
    pub fn start(&self) -> Result<Engine> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if engine.is_none() {
            *engine = Some(self.gpu.open()?);
        }
        Ok(engine.clone().expect("just started"))
    }
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.gpu.fmt(f)
    }
}
