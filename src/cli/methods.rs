//! `incise methods [NAME]`: which methods there are, what they need, and their parameters; and
//! which suits a model.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::context::Context;
use crate::base::units::{count, counted, metric, seconds};
use crate::base::{Quiet, Result};
use crate::edit::method::{Batching, Method};
use crate::edit::methods::{METHODS, find};
use crate::edit::params::{Absent, Param};
use crate::edit::recommend::{MeasuredMode, Recommendation};
use crate::model::load;
use crate::tensor::Device;

/// Which method to describe.
#[derive(Args)]
pub struct Methods {
    /// One method, with its parameters [default: all, a line each]
    name: Option<String>,
    /// Which method suits the model in this folder, by what was measured of others
    #[arg(long, value_name = "MODEL", conflicts_with = "name")]
    advise: Option<PathBuf>,
    /// How many facts it is to be edited with
    #[arg(long, value_name = "N", default_value_t = 1, requires = "advise")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    facts: u64,
}

impl Methods {
    /// Prints the table, or one method.
    pub fn run(&self, context: &Context) -> Result<()> {
        if let Some(model) = &self.advise {
            return advise(context, model, self.facts);
        }
        let methods: Vec<&dyn Method> = match &self.name {
            Some(name) => vec![find(name)?],
            None => METHODS.to_vec(),
        };
        if context.json {
            let all: Vec<Value> = methods.iter().map(|m| method_json(*m)).collect();
            return context.terminal.json(&json!(all));
        }
        for method in &methods {
            let about = method.about();
            context.terminal.line(format!("{:<10} {}", about.name, about.summary))?;
            context.terminal.line(format!("{:<10} {}", "", about.paper))?;
            let facts = method.batching().words();
            context
                .terminal
                .line(format!("{:<10} facts {facts}; changes {}", "", about.changes))?;
            context.terminal.line(format!("{:<10} needs {}", "", about.needs))?;
        }
        if self.name.is_some() {
            context.terminal.line("")?;
            for param in methods[0].params() {
                context.terminal.line(param_line(param))?;
            }
        }
        Ok(())
    }
}

/// Says which method suits a model, why, and what it will cost.
fn advise(context: &Context, dir: &Path, facts: u64) -> Result<()> {
    let (checkpoint, model) = load::open(dir, &Device::Cpu, &Quiet)?;
    let parameters =
        checkpoint.entries().map(|(_, _, e)| e.shape.iter().product::<usize>() as u64).sum();
    let found = Recommendation::of(&model.arch, parameters, facts)?;
    let (about, best) = (found.method.about(), found.best);
    if context.json {
        return context.terminal.json(&json!({
            "method": about.name, "facts": facts, "mode": best.mode, "why": found.why(facts),
            "seconds": found.seconds, "needs": about.needs, "preset": found.preset,
            "measured_on": found.model.model, "measured": best, "others": found.others,
            "left_out": found.broken,
        }));
    }
    let line = |what: &str, text: String| context.terminal.line(format!("{what:<9} {text}"));
    line("use", found.why(facts))?;
    if facts > best.facts {
        let most = counted(best.facts, "fact");
        line(
            "",
            format!("no more than {most} were measured; try a part of yours with `incise eval`"),
        )?;
    }
    let times = parameters as f64 / found.model.parameters as f64;
    let memory = format!("{}B there at most", metric(best.peak_bytes as f64));
    line(
        "costs",
        match (best.seconds, found.seconds) {
            (Some(each), Some(all)) => format!(
                "about {} on two cores, measuring included: {} a fact there, {times:.2} times the \
             parameters here; {memory}",
                seconds(all),
                seconds(each),
            ),
            _ => format!("seconds were not measured; {memory}"),
        },
    )?;
    line("needs", about.needs.to_owned())?;
    let (dir, name) = (dir.display(), about.name);
    line(
        "settings",
        match &found.preset {
            _ if found.method.is_trained() => format!(
                "those of an editor: `incise train {dir} --method {name} --data RECORDS -o EDITOR`"
            ),
            Some(preset) => format!("the preset {preset}"),
            None => format!(
                "none are known of a model of these sizes: `incise tune {dir} --method {name} \
             --facts {facts} --data RECORDS -o hparams.json` finds some"
            ),
        },
    )?;
    let (mut more, upon) = (String::new(), best.mode == MeasuredMode::Sequential);
    for (flags, are_needed) in [
        (" --stats STATS", about.needs.contains("statistics")),
        (" --editor EDITOR", found.method.is_trained()),
        (" --sequential 1", upon && found.method.batching() == Batching::Together),
    ] {
        more += if are_needed { flags } else { "" };
    }
    line("then", format!("incise edit {dir} FACTS --method {name}{more} -o facts.patch"))?;
    for known in &found.broken {
        let from = known.facts.map_or(String::new(), |n| format!(" from {} facts", count(n)));
        line("left out", format!("{}{from}: {}", known.method, known.source))?;
    }
    Ok(())
}

fn param_line(param: &Param) -> String {
    let absent = param.absent.words();
    format!("  {:<20} {} ({}; not given: {absent})", param.name, param.about, param.kind.words())
}

fn method_json(method: &dyn Method) -> Value {
    let about = method.about();
    let params: Vec<Value> = method.params().iter().map(|p| param_json(p)).collect();
    json!({
        "name": about.name, "summary": about.summary, "paper": about.paper,
        "changes": about.changes,
        "needs": about.needs, "together": method.batching() == Batching::Together,
        "parameters": params,
    })
}

fn param_json(param: &Param) -> Value {
    let default: Option<Value> = match param.absent {
        Absent::Default(value) | Absent::Unused(value) => serde_json::from_str(value).ok(),
        Absent::Needed => None,
    };
    json!({
        "name": param.name, "takes": param.kind.words(), "needed": param.absent == Absent::Needed,
        "default": default, "about": param.about,
    })
}
