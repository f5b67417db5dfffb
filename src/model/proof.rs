//! A model's own matrices on the devices that it computes on: each kind is multiplied once, at its
//! real size, before anything rests on it.

use std::collections::HashSet;

use super::model::Model;
use crate::base::{Error, Progress, Remedy, Result, Stage, catch_device_error};
use crate::gpu::blaslt::Shape;
use crate::gpu::launch::Elem;
use crate::gpu::{Engine, Proof};
use crate::ops::proof::ask::go_on;
use crate::ops::proof::library::{MatrixKind, compared};
use crate::ops::proof::{solver, weight};
use crate::tensor::Weight;

/// Rows of a product: those of a batch of a search for a matrix of so many numbers, for smaller
/// ones, whose indices do not grow large, fewer; and where the host stands for a card.
const ROWS: [usize; 3] = [8192, 137, 40];
const LARGE: usize = 1 << 20;

impl Model {
    /// Asks the devices that have proved their kernels for products with each kind of matrix, and
    /// drops the shapes that a library multiplies otherwise than our kernels. What was proved is
    /// kept.
    ///
    /// # Errors
    ///
    /// A product that is not what it should be; a device that fails; an interruption.
    pub(super) fn prove(&self, progress: &dyn Progress) -> Result<()> {
        let engines = [&self.compute].into_iter().chain(&self.peers).filter_map(|c| c.engine());
        let proven = engines.filter_map(|engine| Some((engine, engine.proof()?)));
        // The device is not held: sums on the host are the pool's.
        let ask = |(engine, proof)| catch_device_error(|| self.prove_on(engine, proof, progress));
        proven.into_iter().try_for_each(ask)
    }

    fn prove_on(&self, engine: &Engine, proof: &Proof, progress: &dyn Progress) -> Result<()> {
        let kinds = self.kinds();
        let titles: Vec<String> = kinds.iter().map(|(title, _)| title.clone()).collect();
        let libraries = engine.libraries().into_iter().filter_map(|state| state.title.ok());
        let libraries: Vec<String> =
            ["our kernels".to_owned()].into_iter().chain(libraries).collect();
        let what = format!("products by {}: {}", libraries.join(", "), titles.join(", "));
        let (kernels, proof) = (proof, proof.with(&what));
        if proof.is_kept() {
            return Ok(());
        }
        let mut dropped = drop_wrong_solver(engine, progress)?;
        for (i, (title, w)) in kinds.iter().enumerate() {
            progress.at(Stage::Proof, i as u64, kinds.len() as u64);
            go_on(progress)?;
            let [out, inner] = w.dims();
            let n = match engine.is_card() {
                true if out * inner >= LARGE => ROWS[0],
                true => ROWS[1],
                false => ROWS[2],
            };
            if let Some(wrong) = weight::multiplied(engine, w, n)? {
                [kernels, &proof].into_iter().for_each(Proof::forget);
                let what = format!("kernels/linear_mma.cu, {wrong}, on {}", proof.title());
                let remedy = "compute on the CPU, and send this line to who maintains the program";
                return Err(Error::device(
                    what,
                    Remedy::from(remedy).option("device", Some("cpu")),
                ));
            }
            dropped |= drop_wrong(engine, w, title, progress)?;
        }
        if !dropped {
            proof.keep("").unwrap_or_else(|sentence| engine.note(sentence));
        }
        Ok(())
    }

    /// A matrix of each type, size and layout, and its title.
    fn kinds(&self) -> Vec<(String, &Weight)> {
        let matrices = self.layers.iter().flat_map(|layer| layer.matrices());
        let mut seen = HashSet::new();
        let mut kinds = Vec::new();
        for w in matrices.map(|(_, linear)| &linear.w).chain([&self.head.w]) {
            let title = w.title();
            if seen.insert(title.clone()) {
                kinds.push((title, w));
            }
        }
        kinds
    }
}

/// Drops cuSOLVER where it solves otherwise than our kernels; whether it did.
fn drop_wrong_solver(engine: &Engine, progress: &dyn Progress) -> Result<bool> {
    if engine.cusolver().is_none() {
        return Ok(false);
    }
    let wrong = solver::compared(engine, &engine.own())?;
    if let Some(what) = &wrong {
        engine.drop_cusolver();
        progress.warn(&format!("cuSOLVER is not used, our kernels solve: {what}"));
    }
    Ok(wrong.is_some())
}

/// Drops what cuBLASLt multiplies otherwise than our kernels; whether there was anything.
fn drop_wrong(engine: &Engine, w: &Weight, title: &str, progress: &dyn Progress) -> Result<bool> {
    let Some(lt) = engine.blaslt() else { return Ok(false) };
    let there = w.on(engine);
    if there.w.elem() != Elem::BF16 {
        return Ok(false); // which goes to our kernels
    }
    let (out, inner, by_row) = (there.out, there.inner, there.col_stride == 1);
    let wrong = compared(engine, &engine.own(), MatrixKind { out, inner, by_row })?;
    for found in &wrong {
        let (k, m) = if found.forward { (inner, out) } else { (out, inner) };
        let along_k = found.forward == by_row;
        let stride = if by_row { inner } else { out };
        for (biased, narrow) in [(false, false), (false, true), (true, false), (true, true)] {
            lt.leave_out(&engine.hold(), Shape { k, m, stride, along_k, biased, narrow });
        }
        progress.warn(&format!(
            "{} is not used for products with a matrix {title}, our kernels are: {}",
            lt.title(),
            found.what
        ));
    }
    Ok(!wrong.is_empty())
}
