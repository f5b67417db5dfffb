//! Second moments from the original code's `.npz` files: a zip of NumPy arrays, one a layer.
//!
//! ```text
//! mom2.mom2    (F, F) f4 or f8     Σ k kᵀ, a sum and not yet a mean
//! mom2.count   () i4 or i8         how many keys were added
//! ```
//!
//! and others that are not needed here. EasyEdit writes the same. Source: the public code's
//! `util/runningstats.py`, `SecondMoment` inside a `CombinedStat`.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use npyz::NpyFile;
use zip::ZipArchive;

use super::file::Moment;
use super::input::Input;
use super::origin::Origin;
use crate::base::file::{check_pointer, open_file};
use crate::base::{Error, Operation, Remedy, Result};
use crate::store::Fingerprint;

const MATRIX: &str = "mom2.mom2";
const COUNT: &str = "mom2.count";

/// Bytes of an array beyond its numbers; no more is unpacked, whatever a file claims.
const HEADER: u64 = 1 << 16;

/// How far c_ij and c_ji may be apart, as a part of √(c_ii c_jj): the full setting adds up some
/// 15,000 f32 products, and each sum rounds by at most 2⁻²⁴ √(c_ii c_jj); twice that.
const SKEW: f32 = 2.0 * 15_000.0 / 16_777_216.0;

fn collect() -> Remedy {
    let text = "take the file that the public code wrote for this layer of this model, or collect \
                the statistics";
    Remedy::from(text).operation(Operation::CollectStatistics)
}

/// Layer l's second moment from the file at `path`, bound to the model of that fingerprint, whose
/// MLP has `f` neurons. The two halves of the matrix are averaged.
///
/// # Errors
///
/// No npz or a Git LFS pointer to one, an array that is missing, truncated, of another size or
/// type, no token, values that are not finite or cannot be a second moment. File and array are
/// named.
pub fn npz(path: &Path, layer: usize, f: usize, model: &str) -> Result<Moment> {
    let mut npz = Npz::open(path)?;
    let mut tokens = 0.0;
    npz.each(COUNT, &[], whole, &mut |n| tokens = n)?;
    if !(tokens >= 1.0 && tokens < 2f64.powi(53) && tokens.fract() == 0.0) {
        return Err(npz.bad(COUNT, format!("is {tokens}, which is no number of tokens")));
    }
    let mut c = Vec::new();
    npz.each(MATRIX, &[f as u64, f as u64], floats, &mut |sum| c.push((sum / tokens) as f32))?;
    symmetrise(&mut c, f).map_err(|what| npz.bad(MATRIX, what))?;
    let corpus = format!("npz-{}", hash(path)?);
    let origin = Origin { model: model.to_owned(), corpus, context_length: 0, normed: false };
    let (input, tokens) = (Input::Key, tokens as u64);
    Ok(Moment { layer, input, f, tokens, second_moment: c, origin, part: None })
}

/// Makes (F, F) symmetric; an error where it is no second moment.
fn symmetrise(c: &mut [f32], f: usize) -> std::result::Result<(), String> {
    if let Some(at) = c.iter().position(|x| !x.is_finite()) {
        return Err(format!("entry ({}, {}) is not finite", at / f, at % f));
    }
    let root: Vec<f32> = (0..f).map(|i| c[i * f + i].sqrt()).collect(); // NaN below 0
    for i in 0..f {
        for j in 0..=i {
            let low = c[i * f + j];
            let high = c[j * f + i];
            let size = root[i] * root[j];
            // An entry below 0 on the diagonal has no root.
            if size.is_nan() || (low - high).abs() > SKEW * size {
                return Err(format!(
                    "entries ({i}, {j}) and ({j}, {i}) are {low} and {high}: no second moment"
                ));
            }
            let mean = low / 2.0 + high / 2.0;
            (c[i * f + j], c[j * f + i]) = (mean, mean);
        }
    }
    Ok(())
}

/// The hash of a file's bytes.
fn hash(path: &Path) -> Result<String> {
    let failed = |e| Error::io(path, "read", e);
    let mut file = open_file(path)?;
    let mut hash = Fingerprint::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hash.hex()),
            n => hash.add(&buffer[..n]),
        }
    }
}

struct Npz<'p> {
    path: &'p Path,
    archive: ZipArchive<File>,
}

impl Npz<'_> {
    fn open(path: &Path) -> Result<Npz<'_>> {
        let (mut file, mut head) = (open_file(path)?, Vec::new());
        let read = Read::by_ref(&mut file).take(64).read_to_end(&mut head);
        read.and_then(|_| file.rewind()).map_err(|e| Error::io(path, "read", e))?;
        check_pointer(path, &head)?;
        let archive = ZipArchive::new(file).map_err(|e| {
            Error::input(path, "npz", format!("is no whole archive: {e}"), "copy it again")
        })?;
        Ok(Npz { path, archive })
    }

    fn bad(&self, array: &str, what: impl Into<String>) -> Error {
        Error::input(self.path, array, what, collect())
    }

    /// Visits every number of an array of that shape and kind, in order.
    fn each(
        &mut self,
        array: &str,
        shape: &[u64],
        kind: NumberKind,
        visit: &mut dyn FnMut(f64),
    ) -> Result<()> {
        let path = self.path;
        let bad = |what: String| Error::input(path, array, what, collect());
        let broken = |e: io::Error| {
            let why = e.to_string();
            bad(format!("cannot be read: {}", why.split_whitespace().collect::<Vec<_>>().join(" ")))
        };
        let names = self.archive.file_names().flatten().take(9);
        let mut found: Vec<String> = names.map(|n| n.trim_end_matches(".npy").into()).collect();
        found.sort();
        let entry = self.archive.by_name(&format!("{array}.npy"));
        let entry = entry.map_err(|e| bad(format!("{e}; the file holds {}", found.join(", "))))?;
        let most = shape.iter().product::<u64>() * 8 + HEADER;
        let mut entry = entry.take(most);
        let npy = NpyFile::new(&mut entry).map_err(broken)?;
        if npy.shape() != shape {
            let has = format!("has the shape {:?}", npy.shape());
            return Err(bad(match shape {
                [] => format!("{has} and is no single number"),
                _ => format!("{has}, not {shape:?} of this model"),
            }));
        }
        let dtype = npy.dtype().descr();
        let (wanted, numbers) = kind(npy);
        let numbers = numbers.ok_or_else(|| bad(format!("is of type {dtype}, not {wanted}")))?;
        for number in numbers {
            visit(number.map_err(broken)?);
        }
        // The checksum is compared at the end of the entry.
        match io::copy(&mut entry, &mut io::sink()).map_err(broken)? {
            0 => Ok(()),
            more => Err(bad(format!("has {more} bytes after its last number"))),
        }
    }
}

type ArrayFile<'r, 'f> = &'r mut io::Take<zip::read::ZipFile<'f, File>>;
type Numbers<'r> = Box<dyn Iterator<Item = io::Result<f64>> + 'r>;
/// What types a kind of numbers has, and the numbers of an array of one of them.
type NumberKind = for<'r, 'f> fn(NpyFile<ArrayFile<'r, 'f>>) -> (&'static str, Option<Numbers<'r>>);

fn floats<'r>(npy: NpyFile<ArrayFile<'r, '_>>) -> (&'static str, Option<Numbers<'r>>) {
    let numbers: Option<Numbers> = match npy.try_data::<f32>() {
        Ok(all) => Some(Box::new(all.map(|x| x.map(f64::from)))),
        Err(npy) => npy.try_data::<f64>().ok().map(|all| Box::new(all) as Numbers),
    };
    ("f4 or f8", numbers)
}

fn whole<'r>(npy: NpyFile<ArrayFile<'r, '_>>) -> (&'static str, Option<Numbers<'r>>) {
    let numbers: Option<Numbers> = match npy.try_data::<i32>() {
        Ok(all) => Some(Box::new(all.map(|x| x.map(f64::from)))),
        Err(npy) => {
            let long = npy.try_data::<i64>().ok();
            long.map(|all| Box::new(all.map(|x| x.map(|n| n as f64))) as Numbers)
        }
    };
    ("i4 or i8", numbers)
}
