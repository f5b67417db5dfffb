//! `incise edit` with a method for many facts: what it keeps, carries and shares between machines.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::edit::{Edit, Ready, warn_of_ridge};
use super::output::{check_distinct, check_place, counted, metric};
use super::report;
use super::{Context, memory};
use crate::base::{Error, Result, Share};
use crate::data::{Request, request};
use crate::edit::batch::Batches;
use crate::edit::facts::Fact;
use crate::edit::hparams::Method;
use crate::edit::kept::{Kept, Values};
use crate::edit::settings::{Form, Settings};
use crate::edit::state::State;
use crate::linalg::keyspace::{Prior, Route};
use crate::store::{Patch, model_fingerprint};

/// Options of the methods for many facts.
#[derive(Args)]
pub struct Mass {
    /// State of a sequential method: read where it is there, and written after the patch
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Edit in batches of so many facts, each on the model as those before it left it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    sequential: Option<u64>,
    /// Bytes the searches may take, such as 8G [default: half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = memory::parse)]
    memory: Option<u64>,
    /// Search the values of every n-th fact only, from the i-th (from 0), and write them to -o
    #[arg(long, value_name = "I/N")]
    shard: Option<Share>,
    /// Values found before, by `--shard` runs or `incise merge`
    #[arg(long, value_name = "FILE", num_args = 1..)]
    values: Vec<PathBuf>,
}

impl Mass {
    /// Files of values that are read.
    pub fn values(&self) -> impl Iterator<Item = &Path> {
        self.values.iter().map(PathBuf::as_path)
    }

    /// What `-o` is to be.
    pub fn what(&self) -> &'static str {
        if self.shard.is_some() { "file of values" } else { "patch" }
    }

    /// Whether a file is an older one of the same kind.
    pub fn is_older(&self, output: &Path) -> bool {
        match self.shard {
            Some(_) => Values::read(output).is_ok(),
            None => Patch::read(output).is_ok(),
        }
    }

    /// Refuses these options for methods that plan one fact after another.
    pub fn refuse(&self, method: Method) -> Result<()> {
        let given = [
            ("--state", self.state.is_some()),
            ("--sequential", self.sequential.is_some()),
            ("--memory", self.memory.is_some()),
            ("--shard", self.shard.is_some()),
            ("--values", !self.values.is_empty()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                let name = method.name();
                let what = format!("{flag} says nothing to {name}, which plans fact after fact");
                Err(Error::refused(what, "leave it out, or edit with memit"))
            }
            None => Ok(()),
        }
    }
}

/// Plans and writes, or searches a shard.
pub fn run(edit: &Edit, method: Method, context: &Context, start: Instant) -> Result<()> {
    let (mass, terminal) = (&edit.mass, &context.terminal);
    let dir = kept(&edit.output);
    places(edit, &dir)?;
    if mass.shard.is_some() && mass.sequential.is_some() {
        let what = "--shard with --sequential: later batches need the earlier ones' edits";
        return Err(Error::refused(what, "leave out one of the two"));
    }
    let ready = edit.ready(method, context)?;
    let by = ready.values.batch(method, &ready.model)?;
    let state = state(mass, &ready, &by)?;
    let moments = |l| edit.moment(&ready, l);
    let room = mass.memory.unwrap_or_else(memory::spare);
    let batches = Batches {
        model: &ready.model,
        name: model_fingerprint(&ready.checkpoint, &|_| false)?,
        moments: &moments,
        contexts: &ready.contexts,
        by: &by,
        sequential: mass.sequential.unwrap_or(0) as usize,
        carries: mass.state.is_some(),
        room,
        seed: context.seed,
    };
    let needs_c = |l: &usize| mass.shard.is_none() && !state.bases.contains_key(l);
    // Refused now, and not after hours of searching.
    by.layers.iter().filter(|l| needs_c(l)).try_for_each(|&l| moments(l).map(drop))?;
    if edit.dry_run {
        return dry_run(edit, context, &ready, &batches);
    }
    let mut kept = Kept::open(&dir)?;
    for file in &mass.values {
        kept.values.take(&Values::read(file)?)?;
    }
    said_known(context, &batches, &ready.facts, &kept)?;
    let say_kept = |e| match e {
        Error::Interrupted { .. } => Error::Interrupted {
            kept: format!("what was found is in {}: run the same again", dir.display()),
        },
        e => e,
    };
    if let Some(share) = mass.shard {
        let facts = shard(&ready.facts, share);
        batches.search(&facts, &mut kept, terminal).map_err(say_kept)?;
        batches.export(&facts, &kept, &edit.output)?;
        return told(edit, context, facts.len(), start);
    }
    if !context.json {
        let (n, few) = (ready.facts.len() as u64, batches.at_a_time(&ready.facts));
        terminal.line(format!(
            "{}, {few} at a time; {}",
            counted(n, "fact"),
            solving(&batches, n)
        ))?;
    }
    let planned = batches.run(&ready.facts, state, Some(&mut kept), terminal);
    let (planned, mut state) = planned.map_err(say_kept)?;
    for l in planned.layers.iter().filter(|l| l.ridge.is_some()) {
        warn_of_ridge(terminal, &*moments(l.layer)?, l.ridge);
    }
    edit.finish(context, &ready, &planned, json!({"sequential": mass.sequential}), start)?;
    if let Some(path) = &mass.state {
        state.requests.extend(ready.requests.iter().map(digest));
        state.settings = settings(&by);
        state.write(path, method.name(), &ready.fingerprint)?;
    }
    Ok(())
}

/// The facts of a share.
fn shard(facts: &[Fact], share: Share) -> Vec<Fact> {
    let mine = |(at, _): &(usize, &Fact)| share.has(*at as u64);
    facts.iter().enumerate().filter(mine).map(|(_, fact)| fact.clone()).collect()
}

/// Says how many values an earlier run found.
fn said_known(context: &Context, b: &Batches, facts: &[Fact], kept: &Kept) -> Result<()> {
    if context.json || kept.values.is_empty() {
        return Ok(());
    }
    let first = match b.sequential {
        0 => facts,
        n => &facts[..n.min(facts.len())],
    };
    let (known, all) = (b.known(first, kept), first.len());
    context.terminal.line(format!("{known} of {all} values of the first batch were found before"))
}

/// `PATCH.kept`.
fn kept(patch: &Path) -> PathBuf {
    let mut name = patch.as_os_str().to_owned();
    name.push(".kept");
    PathBuf::from(name)
}

/// Refuses, before any work, places that are taken: by what is read, or by another output.
fn places(edit: &Edit, kept: &Path) -> Result<()> {
    let report = report::path(&edit.output);
    let mut outputs = vec![kept, &report, &edit.output];
    if let Some(state) = &edit.mass.state {
        check_place(state, &edit.inputs())?;
        outputs.push(state);
    }
    check_distinct(&outputs)?;
    let inside = |input: &&Path| match (input.canonicalize(), kept.canonicalize()) {
        (Ok(input), Ok(kept)) => input.starts_with(kept) && !edit.mass.values().any(|v| v == input),
        _ => false,
    };
    match edit.inputs().into_iter().any(|input| inside(&input)) {
        true => {
            let what = "is where what is found would be kept, and holds what the command reads";
            Err(Error::input(kept, "kept", what, "name another patch"))
        }
        false => Ok(()),
    }
}

/// What has to stay the same while a state is carried on.
fn settings(by: &Settings) -> String {
    match by.form {
        Form::AlphaEdit { nullspace_threshold, .. } => {
            format!("layers {:?}, nullspace_threshold {nullspace_threshold:e}", by.layers)
        }
        _ => format!("layers {:?}", by.layers),
    }
}

/// A name for a request.
fn digest(request: &Request) -> String {
    request::digest(std::slice::from_ref(request))
}

fn state(mass: &Mass, ready: &Ready, by: &Settings) -> Result<State> {
    let Some(path) = mass.state.as_ref().filter(|path| path.exists()) else {
        return Ok(State::default());
    };
    let (method, f) = (ready.method.name(), ready.model.arch.inner);
    let state = State::read(path, method, &ready.fingerprint, f)?;
    let bad =
        |field: &str, what: String, remedy: &str| Err(Error::input(path, field, what, remedy));
    if let Some(known) = ready.requests.iter().find(|r| state.requests.contains(&digest(r))) {
        let what = format!("holds the keys of record `{}` already", known.id);
        let remedy =
            "apply their patch and go on with other requests, or name the state from before";
        return bad("requests", what, remedy);
    }
    if state.settings != settings(by) {
        let what = format!("is of {}, not of {}", state.settings, settings(by));
        return bad("settings", what, "keep them, or begin another state");
    }
    if by.anchor.is_some() && state.anchor.is_none() {
        let what = "there is none: c is of the model before its first edit".to_owned();
        return bad("anchor", what, "begin another state on that model, or take norm_anchor out");
    }
    Ok(state)
}

fn told(edit: &Edit, context: &Context, facts: usize, start: Instant) -> Result<()> {
    let (seconds, output) = (start.elapsed().as_secs_f64(), &edit.output);
    if context.json {
        let all = json!({"output": output, "values": facts, "seconds": seconds});
        return context.terminal.json(&all);
    }
    let values = counted(facts as u64, "value");
    context.terminal.line(format!("{}: {values} in {seconds:.1} s", output.display()))
}

/// What would be done, and what it would take.
fn dry_run(edit: &Edit, context: &Context, ready: &Ready, b: &Batches) -> Result<()> {
    let n = ready.facts.len() as u64;
    edit.say(
        context,
        ready,
        json!({
            "layers": b.by.layers, "search_layer": b.by.site().layer,
            "bytes_a_fact": b.bytes(&ready.facts) / n, "room": b.room,
            "at_a_time": b.at_a_time(&ready.facts), "solve": solving(b, n),
        }),
    )
}

/// Which system a layer's solve has, and the memory it takes.
fn solving(b: &Batches, facts: u64) -> String {
    let n = match b.sequential {
        0 => facts as usize,
        some => some.min(facts as usize),
    };
    let sizes = [b.model.arch.inner, n, b.model.arch.width];
    let epsilon = match b.by.form {
        Form::Emmet { emmet_lambda, .. } => emmet_lambda,
        _ => 1.0,
    };
    let matrix = || faer::Mat::zeros(0, 0);
    let prior = match b.by.form {
        Form::AlphaEdit { l2, .. } if b.sequential == 0 && !b.carries => Prior::Scaled(l2),
        _ => Prior::Matrix(&matrix),
    };
    let route = Route::choose(&prior, epsilon, sizes);
    let system = if route == Route::Keys { "F×F" } else { "n×n" };
    format!("each layer's solve is {system} and takes {}B", metric(route.bytes(sizes) as f64))
}
