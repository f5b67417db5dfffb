//! A training that was cut off, kept so that the same command goes on to the same bytes.
//!
//! A safetensors file, whose metadata names all that the training depends on:
//!
//! ```text
//! NAME                   the parameter
//! NAME:m, NAME:v         what Adam knows of it, where it is trained
//! NAME:best              as it was when samples that are held out were taken best, if they were
//! history                F64 (looks, 4): samples seen, and the three losses of those held out
//! ```
//!
//! A file of another training is left alone and refused, and so is one that is damaged.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use safetensors::tensor::Dtype;
use serde::Serialize;

use super::objective::SampleLoss;
use super::parameters::Parameters;
use crate::base::{Error, Result};
use crate::store::place::check_replaced;
use crate::store::write::{self, Item};
use crate::store::{Fingerprint, Shard};
use crate::tensor::{Precision, Tensor};

/// How often it is written.
const SAVE_EVERY: Duration = Duration::from_secs(60);

const HISTORY: &str = "history";

/// A look at the samples that are held out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeldOutLook {
    /// Samples that were trained on before it.
    pub samples: usize,
    /// The mean over the held-out samples.
    pub loss: SampleLoss,
}

/// Where a training is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progressed {
    /// Samples that were trained on.
    pub samples: usize,
    /// Steps that were taken.
    pub steps: usize,
    /// The looks at held-out samples so far.
    pub history: Vec<HeldOutLook>,
    /// The parameters at the best of them.
    pub best: Option<Vec<Vec<f64>>>,
}

/// The file of a training.
pub struct KeptParameters {
    path: PathBuf,
    key: String,
    saved: Instant,
    began: Instant,
    /// What calls before this one took.
    before: Duration,
}

/// A tensor of the file: its name and sizes, and its numbers.
type Part = (String, Vec<usize>, Vec<f64>);

impl KeptParameters {
    /// At a path; `key` names all that the training depends on.
    pub fn at(path: PathBuf, key: String) -> KeptParameters {
        let now = Instant::now();
        KeptParameters { path, key, saved: now, began: now, before: Duration::ZERO }
    }

    /// What the training took until now, all calls together.
    pub fn seconds(&self) -> f64 {
        (self.before + self.began.elapsed()).as_secs_f64()
    }

    /// Refuses a file that stands in its place and is no training's.
    ///
    /// # Errors
    ///
    /// That.
    pub fn check(&self) -> Result<()> {
        let is_ours = |shard: Arc<Shard>| shard.header().metadata.contains_key("training");
        check_replaced(&self.path, Shard::open(&self.path).is_ok_and(is_ours), "training")
    }

    /// Puts a training where it was, if there is a file that says where.
    ///
    /// # Errors
    ///
    /// A file of another training, which is left alone, or a damaged one.
    pub fn read(&mut self, into: &mut Parameters) -> Result<Option<Progressed>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let found = self.restore(into).map(Some);
        let what = "is damaged, or of a training of other data, settings or weights";
        let remedy = "go on as that one began, remove it, or name another output folder";
        found.ok_or_else(|| Error::input(&self.path, "training", what, remedy))
    }

    /// The same; nothing is touched where the file is of no use.
    fn restore(&mut self, into: &mut Parameters) -> Option<Progressed> {
        let shard = Shard::open(&self.path).ok()?;
        let header = shard.header();
        let said = |name: &str| header.metadata.get(name);
        let count = |name: &str| said(name)?.parse::<usize>().ok();
        if said("training")? != &self.key {
            return None;
        }
        let dtype = stored_type(into.precision());
        let numbers = |name: &str, dtype: Dtype, shape: &[usize]| -> Option<Vec<f64>> {
            let entry = header.tensors.get(name)?;
            let fits = entry.dtype == dtype.to_string() && entry.shape == shape;
            let bytes = fits.then(|| shard.bytes(&entry.range))?;
            Some(match dtype {
                Dtype::F64 => {
                    bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
                }
                _ => {
                    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect()
                }
            })
        };
        let (mut values, mut best) = (Vec::new(), Vec::new());
        for p in into.all() {
            let all = |ending| numbers(&format!("{}{ending}", p.name), dtype, &p.shape);
            let moments = if p.is_trained() { Some([all(":m")?, all(":v")?]) } else { None };
            values.push((all("")?, moments));
            best.extend(all(":best"));
        }
        let looks = header.tensors.get(HISTORY)?.shape.first().copied()?;
        let history = numbers(HISTORY, Dtype::F64, &[looks, 4])?;
        let look = |h: &[f64]| HeldOutLook {
            samples: h[0] as usize,
            loss: SampleLoss { edit: h[1], locality: h[2], total: h[3] },
        };
        let state = Progressed {
            samples: count("samples")?,
            steps: count("steps")?,
            history: history.chunks(4).map(look).collect(),
            best: (best.len() == values.len()).then_some(best),
        };
        let flat = values.iter().map(|(value, moments)| (value.clone(), moments.clone()));
        let parts = parts(into, &state, flat);
        if said("check")? != &check(&state, &parts, into.precision()) {
            return None;
        }
        let seconds = said("seconds")?.parse().ok()?;
        self.before = Duration::try_from_secs_f64(seconds).ok()?;
        let precision = into.precision();
        for (p, (value, moments)) in into.all_mut().iter_mut().zip(values) {
            let shape = p.value().shape().to_vec();
            let tensor = |values: &[f64]| Tensor::of(precision, &shape, values);
            *p.value_mut() = tensor(&value);
            if let Some([m, v]) = moments {
                (p.moments.m, p.moments.v) = (tensor(&m), tensor(&v));
                p.moments.steps = state.steps;
            }
        }
        Some(state)
    }

    /// Writes where the training is, if it was long ago.
    ///
    /// # Errors
    ///
    /// As [`write`](KeptParameters::write).
    pub fn write_seldom(&mut self, parameters: &Parameters, state: &Progressed) -> Result<()> {
        if self.saved.elapsed() < SAVE_EVERY {
            return Ok(());
        }
        self.write(parameters, state)
    }

    /// Writes where the training is.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written.
    pub fn write(&mut self, parameters: &Parameters, state: &Progressed) -> Result<()> {
        let precision = parameters.precision();
        let all = parameters.all().iter().map(|p| {
            let moments = || [p.moments.m.to_f64(), p.moments.v.to_f64()];
            (p.value().to_f64(), p.is_trained().then(moments))
        });
        let parts = parts(parameters, state, all);
        let dtype = stored_type(precision);
        let item = |(name, shape, _): &Part| Item {
            name: name.clone(),
            dtype: if name == HISTORY { Dtype::F64 } else { dtype },
            shape: shape.clone(),
        };
        let items: Vec<Item> = parts.iter().map(item).collect();
        let metadata = BTreeMap::from([
            ("training".to_owned(), self.key.clone()),
            ("check".to_owned(), check(state, &parts, precision)),
            ("samples".to_owned(), state.samples.to_string()),
            ("steps".to_owned(), state.steps.to_string()),
            ("seconds".to_owned(), self.seconds().to_string()),
        ]);
        write::write(&self.path, &metadata, &items, &mut |i, out| {
            out.write_all(&stored(&parts[i], precision)).map_err(io::Error::other)
        })?;
        self.saved = Instant::now();
        Ok(())
    }

    /// Removes the file, which serves no more.
    pub fn forget(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The type of parameters in the file.
fn stored_type(precision: Precision) -> Dtype {
    match precision {
        Precision::F32 => Dtype::F32,
        Precision::F64 => Dtype::F64,
    }
}

/// All that the file holds.
fn parts(
    parameters: &Parameters,
    state: &Progressed,
    values: impl Iterator<Item = (Vec<f64>, Option<[Vec<f64>; 2]>)>,
) -> Vec<Part> {
    let mut parts = Vec::new();
    for (i, (p, (value, moments))) in parameters.all().iter().zip(values).enumerate() {
        let mut part =
            |ending: &str, x| parts.push((format!("{}{ending}", p.name), p.shape.clone(), x));
        part("", value);
        if let Some([m, v]) = moments {
            part(":m", m);
            part(":v", v);
        }
        if let Some(best) = &state.best {
            part(":best", best[i].clone());
        }
    }
    let look = |HeldOutLook { samples, loss }: &HeldOutLook| {
        [*samples as f64, loss.edit, loss.locality, loss.total]
    };
    let history: Vec<f64> = state.history.iter().flat_map(look).collect();
    parts.push((HISTORY.to_owned(), vec![state.history.len(), 4], history));
    parts
}

/// The bytes of a tensor in the file; numbers of the type that is computed in stay as they are.
fn stored((name, _, values): &Part, precision: Precision) -> Vec<u8> {
    if precision == Precision::F64 || name == HISTORY {
        return bytemuck::cast_slice(values).to_vec();
    }
    let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    bytemuck::cast_slice(&values).to_vec()
}

fn check(state: &Progressed, parts: &[Part], precision: Precision) -> String {
    let mut all = Fingerprint::default();
    for count in [state.samples, state.steps] {
        all.add(&(count as u64).to_le_bytes());
    }
    for part in parts {
        all.field(part.0.as_bytes());
        all.field(&stored(part, precision));
    }
    all.hex()
}
