//! `incise methods [NAME]`: which methods there are, what they need, and their parameters.

use clap::Args;
use serde_json::{Value, json};

use super::context::Context;
use crate::base::Result;
use crate::edit::method::{Batching, Method};
use crate::edit::methods::{METHODS, find};
use crate::edit::params::{Absent, Param};

/// Which method to describe.
#[derive(Args)]
pub struct Methods {
    /// One method, with its parameters [default: all, a line each]
    name: Option<String>,
}

impl Methods {
    /// Prints the table, or one method.
    pub fn run(&self, context: &Context) -> Result<()> {
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
