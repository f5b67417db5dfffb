//! `incise doctor`: what this machine offers, and what to do about what it lacks. A GPU that is
//! named proves that it computes what it should: [`super::doctor_proof`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::doctor_proof::{self, Proved};
use crate::base::units::metric;
use crate::base::{Error, Result};
use crate::gpu::driver::{Driver, FORCE_PTX, Gpu, POOL, SYNC, TWIN, probe};
use crate::gpu::gpus;
use crate::gpu::kernels::FILES;
use crate::gpu::library::{BLASLT, CUSOLVER, SWITCH, find};
use crate::ops::proof::of_kernels;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const COMMIT: &str = env!("INCISE_COMMIT");

/// What a machine offers.
#[derive(Args)]
pub struct Doctor {
    /// A model whose matrices a GPU named by --device proves too
    model: Option<PathBuf>,
}

impl Doctor {
    /// Prints the findings, also where a device that is named is `missing` or does not start.
    pub fn run(&self, context: &Context, missing: Option<Error>) -> Result<()> {
        let proved = match missing {
            Some(e) => Err(e),
            None => doctor_proof::prove(context, self.model.as_deref()),
        };
        if let Err(Error::Interrupted { .. }) = proved {
            return proved.map(drop);
        }
        let there = proved.as_ref().ok().and_then(Option::as_ref);
        findings(context, there)?;
        proved?.map_or(Ok(()), |proved| proved.tell(context))
    }
}

fn findings(context: &Context, proved: Option<&Proved>) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let features = features();
    let driver = probe();
    let said = match &driver {
        Driver::Absent => "no NVIDIA driver; everything runs on the processor".to_owned(),
        Driver::Failed(e) => format!("the driver refuses ({e}); see that nvidia-smi works"),
        Driver::Ready { version, .. } => {
            format!("serves CUDA {}.{}", version / 1000, version % 1000 / 10)
        }
    };
    let gpus = gpus();
    let libraries = libraries(&driver);
    let embedded = FILES.iter().map(|file| file.images.len()).sum::<usize>();
    let engine = match embedded {
        0 => "not compiled: the program was built without NVRTC; at first use it is looked for"
            .into(),
        n => format!("{} files as {n} images, for {}", FILES.len(), archs().join(" ")),
    };
    let set = set();
    if context.json {
        let gpus: Vec<_> = gpus
            .iter()
            .map(|g| {
                json!({"ordinal": g.ordinal, "name": g.name, "memory": g.memory,
                            "capability": [g.capability.0, g.capability.1],
                            "proved": of_kernels(g).is_kept()})
            })
            .collect();
        return context.terminal.json(&json!({
            "version": VERSION, "commit": COMMIT, "cores": cores, "features": features,
            "driver": said, "gpus": gpus, "libraries": libraries,
            "kernels": FILES.iter().map(|file| file.name).collect::<Vec<_>>(), "images": archs(),
            "set": set.iter().map(|(name, value, _)| (*name, value)).collect::<BTreeMap<_, _>>(),
            "proof": proved.map(Proved::json), "model": proved.and_then(Proved::model_json),
        }));
    }
    let line = |name: &str, text: &str| context.terminal.line(format!("{name:<10} {text}"));
    line("incise", &format!("{VERSION}, commit {COMMIT}"))?;
    line("processor", &format!("{cores} cores; {}", features.join(" ")))?;
    line("driver", &said)?;
    for g in &gpus {
        let (major, minor) = g.capability;
        let memory = metric(g.memory as f64);
        let about = format!("{} {memory}B, sm_{major}{minor}; {}", g.name, standing(g));
        line(&format!("cuda:{}", g.ordinal), &about)?;
    }
    line("kernels", &engine)?;
    for (name, value, does) in &set {
        line("set", &format!("{name}={value}: {does}"))?;
    }
    libraries.iter().try_for_each(|text| line("libraries", text))?;
    if cfg!(target_arch = "x86_64") && !features.contains(&"avx2") {
        line("advice", "without AVX2 products run several times slower; use a newer processor")?;
    }
    Ok(())
}

/// Whether a card has proved its kernels.
fn standing(gpu: &Gpu) -> String {
    match of_kernels(gpu).is_kept() {
        true => "has proved its kernels".to_owned(),
        false => {
            let n = gpu.ordinal;
            format!("proves its kernels at first use, or now: incise doctor --device cuda:{n}")
        }
    }
}

/// Variables of the environment that change what runs kernels, and what they do.
const SWITCHES: [(&str, &str); 5] = [
    (TWIN, "this executable stands for two GPUs, and no card is used"),
    (POOL, "`off` gives each array memory of its own: slow, and meant for sanitizers"),
    (SWITCH, "`off` leaves NVIDIA's libraries alone: our kernels multiply and factor"),
    (SYNC, "`1` waits for the card after each launch, so that an error names its kernel"),
    (FORCE_PTX, "`1` makes the driver compile the kernels from PTX at every start"),
];

/// Those that are set: name, value, what it does.
fn set() -> Vec<(&'static str, String, &'static str)> {
    let value = |name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
    SWITCHES.iter().filter_map(|&(name, does)| Some((name, value(name)?, does))).collect()
}

/// Where NVIDIA's libraries are, which multiply and factor on a GPU in our kernels' place.
fn libraries(driver: &Driver) -> [String; 2] {
    // Without a driver any release is as good.
    let serves = if let Driver::Ready { version, .. } = driver { *version } else { i32::MAX };
    [BLASLT, CUSOLVER].map(|wanted| match find(&wanted, serves) {
        Ok(found) => format!("{}, {}", found.title, found.path),
        Err(why) => format!("no {}, which a GPU does without: {why}", wanted.name),
    })
}

/// What the kernels are compiled for.
fn archs() -> Vec<&'static str> {
    let mut archs: Vec<_> = FILES.iter().flat_map(|f| f.images).map(|image| image.arch).collect();
    archs.sort_unstable();
    archs.dedup();
    archs
}

/// Vector instructions that products use where they are there.
fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found = [("neon", cfg!(target_arch = "aarch64"))];
    found.into_iter().filter(|f| f.1).map(|f| f.0).collect()
}
