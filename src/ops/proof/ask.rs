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
/// A GPU that does not start, or whose kernels give what they should not; an interruption.
pub fn start(device: &Device, room: u64, progress: &dyn Progress) -> Result<Vec<Compute>> {
    let device = match device {
        Device::Auto(chosen) => match chosen.get() {
            Some(device) => device,
            None => {
                let device = choose(room, progress)?;
                chosen.get_or_init(|| device)
            }
        },
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
fn choose(room: u64, progress: &dyn Progress) -> Result<Device> {
    let Some(gpu) = gpu::gpus().into_iter().next() else { return Ok(Device::Cpu) };
    let named = gpu.title();
    let device = Device::from(gpu);
    let why = match start(&device, room, progress) {
        Ok(computes) => {
            let free = computes[0].engine().map_or(0, |engine| engine.memory().limit);
            if free >= room {
                return Ok(device);
            }
            format!("{free} bytes are free, and the model asks for {room}")
        }
        Err(e @ Error::Interrupted { .. }) => return Err(e),
        Err(e) => e.line(),
    };
    progress.warn(&format!("{named} is not used, the CPU computes: {why}"));
    Ok(Device::Cpu)
}

/// What a card's kernels have proved, or are to prove.
pub fn of_kernels(gpu: &Gpu) -> Proof {
    Proof::of(gpu, KERNELS)
}

/// Asks a card what it has not been asked.
fn prove(gpu: &Gpu, engine: &Engine, progress: &dyn Progress) -> Result<()> {
    let proof = of_kernels(gpu);
    if !proof.is_kept() {
        return ask(engine, progress)?.settle(gpu, engine);
    }
    let faults = faults(engine, |file| file == "probe", &mut |_, _| Ok(()))?;
    first(&faults, gpu, &proof).inspect_err(|_| proof.forget())?;
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
///
/// # Errors
///
/// An interruption between two answers: what was found until then is neither kept nor a failure.
pub fn ask(engine: &Engine, progress: &dyn Progress) -> Result<Asked> {
    let began = Instant::now();
    let known = known_answers().count();
    let mut faults = faults(engine, |_| true, &mut |done, total| {
        progress.at(Stage::Proof, done, total);
        go_on(progress)
    })?;
    let mut measured = None;
    if !faults.iter().any(|fault| fault.failed) {
        match engine.run(|| Instruments::measure(engine)) {
            Ok(instruments) => {
                measured = Some(instruments);
                faults.extend(instruments.fault().map(Fault::of_instruments));
            }
            Err(e) => faults.push(Fault::of_device("probe", ("bf16", ""), &e)),
        }
    }
    Ok(Asked { known, faults, measured, seconds: began.elapsed().as_secs_f64() })
}

/// # Errors
///
/// The user cancelled a proof.
pub fn go_on(progress: &dyn Progress) -> Result<()> {
    match progress.cancelled() {
        true => Err(Error::Interrupted { kept: "the device proves itself the next time".into() }),
        false => Ok(()),
    }
}

/// What is wrong with the kernels of some files; none is asked after one that failed.
fn faults(
    engine: &Engine,
    of: impl Fn(&str) -> bool,
    at: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Vec<Fault>> {
    let known: Vec<_> = known_answers().filter(|known| of(known.file)).collect();
    let mut faults: Vec<Fault> = Vec::new();
    for (i, answer) in known.iter().enumerate() {
        at(i as u64, known.len() as u64)?;
        faults.extend(answer.ask(engine));
        if faults.last().is_some_and(|fault| fault.failed) {
            break;
        }
    }
    Ok(faults)
}

/// The first fault, as why a card is refused.
fn first(faults: &[Fault], gpu: &Gpu, proof: &Proof) -> Result<()> {
    match faults {
        [] => Ok(()),
        [fault, ..] => {
            let (fault, device) = (fault.to_string(), format!("cuda:{}", gpu.ordinal));
            let named = if fault.starts_with(&device) { "" } else { &format!("{device}: ") };
            let what = format!("{named}{fault}, on {}", proof.title());
            let remedy = "compute on the CPU, and send this line to who maintains the program";
            Err(Error::device(what, Remedy::from(remedy).option("device", Some("cpu"))))
        }
    }
}
