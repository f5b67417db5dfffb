//! A device is asked before it computes: the first time every kernel for every type, then at each
//! start the instructions alone that kernels are made of.

use std::time::Instant;

use super::cases::{Fault, known_answers};
use super::instruments::Instruments;
use crate::base::{Error, Progress, Remedy, Result, Stage};
use crate::gpu::{self, Engine, Gpu, Proof};
use crate::tensor::{Compute, Device, Precision};

/// What is proved once a card, driver and build.
const KERNELS: &str = "every kernel for every type";

/// What computes on a device, in f32: GPUs that have proved their kernels, now or before. `auto`
/// becomes the first GPU if that has, and has `room` bytes, else the processor.
///
/// # Errors
///
/// A GPU that does not start, or whose kernels give what they should not.
pub fn start(device: &Device, room: u64, progress: &dyn Progress) -> Result<Vec<Compute>> {
    let device = match device {
        Device::Auto(chosen) => chosen.get_or_init(|| choose(room, progress)),
        device => device,
    };
    match device {
        Device::Cpu | Device::Auto(_) => Ok(vec![Precision::F32.into()]),
        Device::Cuda(cards) => cards
            .iter()
            .map(|card| {
                let engine = card.proven(|gpu, engine| prove(gpu, engine, progress))?;
                engine.warn(progress);
                Ok(engine.into())
            })
            .collect(),
    }
}

/// The first GPU, if it proves itself; else the processor, and a line why.
fn choose(room: u64, progress: &dyn Progress) -> Device {
    let Some(gpu) = gpu::gpus().into_iter().next() else { return Device::Cpu };
    let named = format!("cuda:{} ({})", gpu.ordinal, gpu.name);
    let device = Device::from(gpu);
    let why = match start(&device, room, progress) {
        Ok(computes) => {
            let free = computes[0].engine().map_or(0, |engine| engine.memory().limit);
            if free >= room {
                return device;
            }
            format!("{free} bytes are free, and the model asks for {room}")
        }
        Err(e) => e.line(),
    };
    progress.warn(&format!("{named} is not used, the CPU computes: {why}"));
    Device::Cpu
}

/// What a card's kernels have proved, or are to prove.
pub fn of_kernels(gpu: &Gpu) -> Proof {
    Proof::of(gpu, KERNELS)
}

/// Asks a card what it has not been asked.
fn prove(gpu: &Gpu, engine: &Engine, progress: &dyn Progress) -> Result<()> {
    let proof = of_kernels(gpu);
    if !proof.is_kept() {
        return ask(engine, progress).settle(gpu, engine);
    }
    first(&faults(engine, |file| file == "probe", &mut |_, _| ()), gpu, &proof)
        .inspect_err(|_| proof.forget())?;
    engine.has_proved(proof);
    Ok(())
}

/// What a device answered.
#[derive(Debug)]
pub struct Asked {
    /// Kernels and types that were asked.
    pub known: usize,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// What its instruments are worth; `None` of a device that failed before.
    pub measured: Option<Instruments>,
    /// How long it took.
    pub seconds: f64,
}

impl Asked {
    /// Keeps that a card has proved its kernels.
    ///
    /// # Errors
    ///
    /// It has not.
    pub fn settle(&self, gpu: &Gpu, engine: &Engine) -> Result<()> {
        let proof = of_kernels(gpu);
        first(&self.faults, gpu, &proof).inspect_err(|_| proof.forget())?;
        let measured = self.measured.map(|i| format!("{i}\n")).unwrap_or_default();
        proof.keep(&measured).unwrap_or_else(|sentence| engine.note(sentence));
        engine.has_proved(Proof { anew: true, ..proof });
        Ok(())
    }
}

/// Asks an engine everything.
pub fn ask(engine: &Engine, progress: &dyn Progress) -> Asked {
    let began = Instant::now();
    let known = known_answers().count();
    let mut faults = faults(engine, |_| true, &mut |done, total| {
        progress.at(Stage::Proof, done, total);
    });
    let mut measured = None;
    if !faults.iter().any(|fault| fault.failed) {
        match engine.run(|| Instruments::measure(engine)) {
            Ok(instruments) => {
                measured = Some(instruments);
                faults.extend(instruments.fault().map(Fault::of_instruments));
            }
            Err(e) => faults.push(Fault::of_device("probe", &e.line())),
        }
    }
    Asked { known, faults, measured, seconds: began.elapsed().as_secs_f64() }
}

/// What is wrong with the kernels of some files; none is asked after one that failed.
fn faults(engine: &Engine, of: impl Fn(&str) -> bool, at: &mut dyn FnMut(u64, u64)) -> Vec<Fault> {
    let known: Vec<_> = known_answers().filter(|known| of(known.file)).collect();
    let mut faults: Vec<Fault> = Vec::new();
    for (i, answer) in known.iter().enumerate() {
        at(i as u64, known.len() as u64);
        faults.extend(answer.ask(engine));
        if faults.last().is_some_and(|fault| fault.failed) {
            break;
        }
    }
    faults
}

/// The first fault, as why a card is refused.
fn first(faults: &[Fault], gpu: &Gpu, proof: &Proof) -> Result<()> {
    match faults {
        [] => Ok(()),
        [fault, ..] => {
            let what = format!("cuda:{}: {fault}, on {}", gpu.ordinal, proof.title());
            let remedy = "compute on the CPU, and send this line to who maintains the program";
            Err(Error::device(what, Remedy::from(remedy).option("device", Some("cpu"))))
        }
    }
}
