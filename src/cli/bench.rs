//! `incise bench`: kernels and stages against the machine's limits.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::context::Context;
use super::predict::PredictFlags;
use crate::base::units::{metric, seconds};
use crate::base::{DType, Error, Result};
use crate::bench::{Row, Sizes, Unit, edit, limits, ops, solves, stages};
use crate::gpu::blaslt::Blaslt;
use crate::gpu::driver::{Driver, probe};
use crate::model::{Model, SearchPrecision, random};
use crate::ops::proof;
use crate::store::place::{check_place, check_replaced};
use crate::tensor::{Compute, Device};

/// What to measure, and on which shape.
#[derive(Args)]
pub struct Bench {
    /// The shape: tiny, gpt2-small or gpt-j-6b [default: gpt-j-6b on a GPU, else gpt2-small]
    #[arg(long)]
    shape: Option<String>,
    /// How large: small only shows that everything runs [default: large on a GPU, else middle]
    #[arg(long)]
    size: Option<Size>,
    /// What to measure beside the machine's limits
    #[arg(long, value_delimiter = ',', default_value = "ops,solves,stages,edit")]
    parts: Vec<Part>,
    /// Numbers of facts whose values are searched, one after another; the last is edited too
    /// [default: 16; of a prediction 10000]
    #[arg(long, value_delimiter = ',')]
    facts: Vec<usize>,
    /// Leave out what would begin after so many seconds
    #[arg(long)]
    budget: Option<u64>,
    /// A file for all numbers, written after every part
    #[arg(short, long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    prediction: PredictFlags,
}

#[derive(Clone, Copy, ValueEnum)]
enum Size {
    Small,
    Middle,
    Large,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    /// Kernels and products
    Ops,
    /// Systems of a layer, and changes added to weights
    Solves,
    /// Prefill, statistics, value searches
    Stages,
    /// MEMIT from nothing
    Edit,
}

impl Bench {
    /// Measures, part by part.
    pub fn run(&self, context: &Context) -> Result<()> {
        if self.prediction.is_asked() {
            return self.prediction.run(context, self.shape.as_deref(), &self.facts);
        }
        self.check_output()?;
        let computes = proof::start(&context.device, 0, &context.terminal)?;
        let [compute] = &computes[..] else {
            return Err(Error::refused("several devices at once", "measure one: --device cuda:0"));
        };
        let on_card = compute.engine().is_some();
        let precision = if on_card { SearchPrecision::Fast } else { SearchPrecision::Exact };
        let config = self.config(on_card)?;
        let size = self.size.unwrap_or(if on_card { Size::Large } else { Size::Middle });
        let sizes = match size {
            Size::Small => Sizes::SMALL,
            Size::Middle => Sizes::MIDDLE,
            Size::Large => Sizes::LARGE,
        };
        let facts = if self.facts.is_empty() { &[16][..] } else { &self.facts };
        let Some(&last) = facts.last().filter(|_| !facts.contains(&0)) else {
            return Err(Error::refused("--facts 0: nothing to search", "say at least one"));
        };
        let began = Instant::now();
        let left = || self.budget.is_none_or(|s| began.elapsed() < Duration::from_secs(s));
        let mut rows = Vec::new();
        if !context.json {
            context.terminal.progress_line(heading());
        }
        let limits = limits::measure(compute, sizes, &mut rows)?;
        let mut shown = self.show(context, &rows, 0, compute)?;
        let mut model = None;
        for part in [Part::Ops, Part::Solves, Part::Stages, Part::Edit] {
            if !self.parts.contains(&part) || !left() {
                continue;
            }
            if model.is_none() {
                model = Some(Model::random(&config, DType::BF16, context.seed, compute)?);
            }
            let model = model.as_mut().expect("just made");
            let widths = [model.arch.width, model.arch.inner];
            match part {
                Part::Ops => ops::measure(compute, sizes, widths, limits, &mut rows)?,
                Part::Solves => solves::measure(compute, sizes, widths, limits, &mut rows)?,
                Part::Stages => {
                    stages::passes(model, sizes, limits, &mut rows)?;
                    for &n in facts {
                        shown = self.show(context, &rows, shown, compute)?;
                        stages::searches(model, limits, n, &mut rows)?;
                    }
                }
                Part::Edit => {
                    model.search_precision = precision;
                    edit::measure(model, sizes, limits, last, &mut rows)?;
                }
            }
            shown = self.show(context, &rows, shown, compute)?;
        }
        if !left() && !context.json {
            context.terminal.progress_line("the budget is spent; the rest was left out");
        }
        match context.json {
            true => context.terminal.json(&results(&rows[..shown], &context.device, compute)),
            false => Ok(()),
        }
    }

    /// Of the model of random weights.
    fn config(&self, on_card: bool) -> Result<Value> {
        let usual = if on_card { "gpt-j-6b" } else { "gpt2-small" };
        let shape = self.shape.as_deref().unwrap_or(usual);
        random::config(shape).ok_or_else(|| {
            let what = format!("--shape {shape}: no such shape");
            Error::refused(what, "say tiny, gpt2-small or gpt-j-6b")
        })
    }

    /// Refuses to replace a file that is none of measurements.
    fn check_output(&self) -> Result<()> {
        if let Some(file) = &self.output {
            check_place(file, &[])?;
            let ours = std::fs::read(file).is_ok_and(|text| {
                serde_json::from_slice::<Value>(&text).is_ok_and(|v| v["incise"].is_object())
            });
            check_replaced(file, ours, "file of measurements")?;
        }
        Ok(())
    }

    /// Prints what is new and writes all of it. Returns how many rows there are.
    fn show(
        &self,
        context: &Context,
        rows: &[Row],
        from: usize,
        compute: &Compute,
    ) -> Result<usize> {
        if !context.json {
            rows[from..].iter().for_each(|row| context.terminal.progress_line(line(row)));
        }
        if let Some(engine) = compute.engine() {
            engine.warn(&context.terminal);
        }
        if let Some(file) = &self.output {
            let text = format!("{:#}\n", results(rows, &context.device, compute));
            std::fs::write(file, text).map_err(|e| Error::io(file, "write", e))?;
        }
        Ok(rows.len())
    }
}

fn heading() -> String {
    format!("{:<28} {:<32} {:>18} {:>14} {:>9}", "what", "on", "time", "reached", "of limit")
}

fn line(row: &Row) -> String {
    let time = format!("{} ± {}", seconds(row.seconds), seconds(row.spread));
    let unit = match row.unit {
        Unit::Bytes => "B/s",
        Unit::Flop => "FLOP/s",
        Unit::Facts => "facts/s",
        Unit::Tokens => "tokens/s",
    };
    let reached = format!("{}{unit}", metric(row.rate()));
    let of = row.of_limit().map_or(String::new(), |part| format!("{:.0} %", 100.0 * part));
    let replays = row.replays.map_or(String::new(), |n| format!("  {n} replays"));
    format!("{:<28} {:<32} {time:>18} {reached:>14} {of:>9}{replays}", row.name, row.shape)
}

/// What the library multiplies, and what it left to our kernels.
pub(super) fn shapes(lt: &Blaslt) -> Value {
    let (served, left): (Vec<_>, Vec<_>) = lt.shapes().into_iter().partition(|(_, served)| *served);
    let names = left.iter().map(|(shape, _)| shape.to_string()).collect::<Vec<_>>();
    json!({"by_library": served.len(), "by_our_kernels": names})
}

/// Everything, with what a reader must know of the machine and the program.
fn results(rows: &[Row], device: &Device, compute: &Compute) -> Value {
    let name = match device.now() {
        Device::Cpu | Device::Auto(_) => "processor".to_owned(),
        Device::Cuda(cards) => cards[0].gpu.name.clone(),
    };
    let driver = match probe() {
        Driver::Ready { version, .. } => Some(version),
        Driver::Absent | Driver::Failed(_) => None,
    };
    json!({
        "incise": {"version": env!("CARGO_PKG_VERSION"), "commit": env!("INCISE_COMMIT")},
        "device": name, "driver": driver, "threads": rayon::current_num_threads(),
        "shapes": compute.engine().and_then(|e| e.blaslt()).map(shapes),
        "products": compute.engine().and_then(|e| e.blaslt()).map_or("own", |lt| lt.title()),
        "rows": rows,
    })
}
