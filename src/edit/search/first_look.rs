//! The first look of a search on a device, held to the host's.
//!
//! ```text
//! look     t₀, the loss of each row of logits and the gradient of the whole, of one fact at δ = 0
//! want     on the host in f64       base   on the host in f32
//! bound    coarser · (2·max|base − want| + u·max|want|)                u = 2⁻²⁴
//! ```
//!
//! A device's products hold each factor to 2⁻¹⁷, in a fast search to 2⁻⁹, where f32 holds it to
//! 2⁻²⁴: what f32 loses in this model, the device loses that many times. That is the worst case: a
//! fast look shows gross faults alone, and an exact one beside it the small ones. A few losses may
//! be right by luck; so they are also allowed what the gradient, of D numbers, shows to be lost, of
//! the largest loss or of 1.

use super::objective::Objective;
use super::packing::shared_prefixes;
use super::settings::Search;
use crate::base::{Error, Operation, Remedy, Result, catch_device_error};
use crate::edit::prompts::FactRows;
use crate::model::prefix::PrefixCache;
use crate::model::{Model, SearchPrecision};
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::tensor::Tensor;

/// What a search sees of one fact before its first step.
pub struct FirstLook {
    t0: Vec<f64>,
    losses: Vec<f64>,
    gradient: Vec<f64>,
}

impl FirstLook {
    /// Of a fact, where the model runs, as a search of many facts computes it.
    ///
    /// # Errors
    ///
    /// The device's.
    pub fn of(model: &Model, rows: &FactRows, search: &Search) -> Result<FirstLook> {
        catch_device_error(|| {
            let _turn = model.compute.hold();
            let (push, least) = (search.push, BATCH_INVARIANT_ROWS);
            let prefixes = shared_prefixes([rows]);
            let prefixes = PrefixCache::run(model, &prefixes, push.layers(), least);
            let mut objective = Objective::new(model, push, search.kl_factor, prefixes, least);
            let t0 = objective.admit(&[rows]).to_f64();
            let at_rest = Tensor::zeros(&model.compute, &[1, t0.len()]);
            let factor = Tensor::of(&model.compute, &[1, 1], &[1.0]);
            let gradient = objective.gradient(&at_rest, &factor).to_f64();
            Ok(FirstLook { t0, losses: objective.row_losses(0), gradient })
        })
    }

    /// Holds a device's look to the host's, in f32 and in f64. `of` says in errors which device and
    /// fact it is of.
    ///
    /// # Errors
    ///
    /// A number that is further off than the device's precision explains.
    pub fn hold(
        &self,
        of: &str,
        precision: SearchPrecision,
        [single, double]: [&FirstLook; 2],
    ) -> Result<()> {
        let coarser = match precision {
            SearchPrecision::Exact => f64::powi(2.0, 24 - 17),
            SearchPrecision::Fast => f64::powi(2.0, 24 - 9),
        };
        let unit = f64::powi(2.0, -24);
        let bound = |base: &[f64], want: &[f64]| {
            coarser * (2.0 * largest_gap(base, want) + unit * largest(want))
        };
        let gradient = bound(&single.gradient, &double.gradient);
        let lost = gradient / largest(&double.gradient).max(f64::MIN_POSITIVE);
        let losses = bound(&single.losses, &double.losses)
            + lost.min(1.0) * largest(&double.losses).max(1.0);
        for (name, got, want, bound) in [
            ("t0", &self.t0, &double.t0, bound(&single.t0, &double.t0)),
            ("loss", &self.losses, &double.losses, losses),
            ("gradient", &self.gradient, &double.gradient, gradient),
        ] {
            // What is no number is within no bound.
            let near = |(got, want): (&f64, &f64)| (got - want).abs() <= bound;
            if let Some(i) = got.iter().zip(want).position(|both| !near(both)) {
                let what = format!(
                    "{of}: the search's first look is wrong: {name}[{i}] = {:e}, and the CPU \
                     says {:e} ± {bound:.1e}",
                    got[i], want[i]
                );
                let remedy = "compute on the CPU, and see whether the device proves itself";
                let remedy = Remedy::from(remedy).operation(Operation::Doctor);
                return Err(Error::device(what, remedy.option("device", Some("cpu"))));
            }
        }
        Ok(())
    }
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |a, x| a.max(x.abs()))
}

fn largest_gap(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).fold(0.0, |worst, (a, b)| worst.max((a - b).abs()))
}
