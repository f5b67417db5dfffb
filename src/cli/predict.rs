//! `incise bench --predict`: what an edit should take on a card that is not here.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::context::Context;
use crate::base::units::{count, counted, seconds};
use crate::base::{DType, Error, Result};
use crate::bench::predict::card::CardRates;
use crate::bench::predict::compare::{Beside, compare};
use crate::bench::predict::line::{Line, total};
use crate::bench::predict::work::AskedEdit;
use crate::bench::predict::{Prediction, by_hand, predict};
use crate::model::SearchPrecision;

const TYPES: [&str; 3] = ["bf16", "f16", "f32"];

/// What to calculate.
#[derive(Args)]
pub(super) struct PredictFlags {
    /// Measure nothing: calculate what MEMIT of many facts should take on a card, such as h200, and
    /// say what each line rests on
    #[arg(
        long,
        value_name = "CARD",
        conflicts_with_all = ["output", "parts", "size", "budget"]
    )]
    predict: Option<String>,
    /// Of the value search: exact or fast
    #[arg(long, value_parser = ["exact", "fast"], default_value = "fast", requires = "predict")]
    precision: String,
    /// How the weights are stored: bf16, f16 or f32
    #[arg(long, value_parser = TYPES, default_value = TYPES[0], requires = "predict")]
    stored: String,
    /// Count without NVIDIA's libraries
    #[arg(long, requires = "predict")]
    own: bool,
    /// Put the results of a card beside what is expected of it: a file of this command's or of
    /// tools/gpu_check
    #[arg(long, value_name = "FILE", requires = "predict")]
    compare: Option<PathBuf>,
}

impl PredictFlags {
    pub(super) fn is_asked(&self) -> bool {
        self.predict.is_some()
    }

    /// Calculates and prints; `facts` are the numbers of facts, one after another.
    pub(super) fn run(
        &self,
        context: &Context,
        shape: Option<&str>,
        facts: &[usize],
    ) -> Result<()> {
        let card = CardRates::named(self.predict.as_deref().expect("it was asked for"))?;
        let shape = shape.unwrap_or("gpt-j-6b");
        if let Some(file) = &self.compare {
            return print_beside(context, &compare(file, shape, card)?);
        }
        let facts = if facts.is_empty() { &[10_000][..] } else { facts };
        if facts.contains(&0) {
            return Err(Error::refused("--facts 0: nothing to search", "say at least one"));
        }
        let mut all = Vec::new();
        for &facts in facts {
            let asked = self.question(shape, facts);
            let known = by_hand(&asked);
            let predicted = predict(asked, card)?;
            if !context.json {
                self.print(context, shape, facts, &predicted)?;
                if let Some((seconds, why)) = known {
                    let by_hand = count(seconds as u64);
                    let said = format!("by hand, in November 2026: {by_hand} s; {why}");
                    context.terminal.line(said)?;
                }
            }
            all.push(json!({
                "shape": shape, "facts": facts, "precision": self.precision,
                "stored": self.stored, "libraries": !self.own, "prediction": predicted,
            }));
        }
        if context.json { context.terminal.json(&json!(all)) } else { Ok(()) }
    }

    fn question(&self, shape: &str, facts: usize) -> AskedEdit {
        AskedEdit {
            shape: shape.to_owned(),
            facts,
            precision: match &*self.precision {
                "fast" => SearchPrecision::Fast,
                _ => SearchPrecision::Exact,
            },
            stored: match &*self.stored {
                "f16" => DType::F16,
                "f32" => DType::F32,
                _ => DType::BF16,
            },
            libraries: !self.own,
        }
    }

    fn print(&self, context: &Context, shape: &str, facts: usize, p: &Prediction) -> Result<()> {
        let line = |text: String| context.terminal.line(text);
        let libraries = if self.own { ", our kernels alone" } else { "" };
        line(format!(
            "MEMIT of {}, {shape} stored in {}, search {}{libraries}, on {}: a \
             calculation, no measurement",
            counted(facts as u64, "fact"),
            self.stored,
            self.precision,
            p.card
        ))?;
        let row = |of: &str, time: f64, why: &str| format!("{of:<34} {:>10}  {why}", seconds(time));
        let print = |rows: &[Line], sum: &str| -> Result<()> {
            rows.iter().try_for_each(|l| line(row(l.name, l.seconds, &l.rests_on)))?;
            line(row(sum, total(rows), ""))
        };
        line(String::new())?;
        print(&p.step, "a step of a full batch")?;
        line(String::new())?;
        print(&p.stages, "the edit")
    }
}

fn print_beside(context: &Context, all: &[Beside]) -> Result<()> {
    if context.json {
        let row = |b: &Beside| json!({"row": b, "ratio": b.ratio(), "off": b.is_off()});
        return context.terminal.json(&json!(all.iter().map(row).collect::<Vec<_>>()));
    }
    let head = ["what", "on", "measured", "expected", "ratio"];
    let line = |[what, on, measured, expected, ratio]: [&str; 5]| {
        let text = format!("{what:<34} {on:<34} {measured:>11} {expected:>11} {ratio:>6}");
        context.terminal.line(text.trim_end())
    };
    line(head)?;
    for b in all {
        let ratio = match b.ratio() {
            Some(ratio) if b.is_off() => format!("{ratio:.2} *"),
            Some(ratio) => format!("{ratio:.2}"),
            None => String::new(),
        };
        let expected = b.expected.map_or(String::new(), seconds);
        line([&b.name, &b.on, &seconds(b.measured), &expected, &ratio])?;
    }
    let off = all.iter().filter(|b| b.is_off()).count();
    line(["", "", "", "", ""])?;
    context.terminal.line(format!(
        "{}, marked *: off by more than a quarter; correct the calculation there first",
        counted(off as u64, "row")
    ))
}
