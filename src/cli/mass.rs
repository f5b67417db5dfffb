//! `incise edit` with a method for many facts: what it keeps, carries and shares between machines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::edit::{Edit, Ready, stored, warn_of_ridge};
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
use crate::store::write::beside;
use crate::store::{Patch, model_fingerprint, tensor_fingerprint};

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
    let dir = beside(&edit.output, ".kept");
    places(edit, &dir)?;
    if mass.shard.is_some() && mass.sequential.is_some() {
        let what = "--shard with --sequential: later batches need the earlier ones' edits";
        return Err(Error::refused(what, "leave out one of the two"));
    }
    let ready = edit.ready(method, context)?;
    let by = ready.values.batch(method, &ready.model)?;
    let state = read_state(mass, &ready, &by)?;
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
    let began = state.name();
    let planned = batches.run(&ready.facts, state, Some(&mut kept), terminal);
    let (planned, state) = planned.map_err(say_kept)?;
    unshared(mass, &ready, &by, &began)?;
    for l in planned.layers.iter().filter(|l| l.ridge.is_some()) {
        warn_of_ridge(terminal, &*moments(l.layer)?, l.ridge);
    }
    edit.finish(context, &ready, &planned, json!({"sequential": mass.sequential}), start)?;
    mass.state.as_ref().map_or(Ok(()), |path| write_state(path, state, &ready, &by))
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

/// Refuses to go on with a state that is not the one this run began with.
fn unshared(mass: &Mass, ready: &Ready, by: &Settings, began: &str) -> Result<()> {
    match &mass.state {
        Some(path) if read_state(mass, ready, by)?.name() != began => {
            let remedy = "apply its patch and run the same again: what was found is kept";
            Err(Error::input(path, "requests", "another run wrote it meanwhile", remedy))
        }
        _ => Ok(()),
    }
}

fn write_state(path: &Path, mut state: State, ready: &Ready, by: &Settings) -> Result<()> {
    state.requests.extend(ready.requests.iter().map(digest));
    state.settings = settings(by);
    state.before = weights(ready, by)?;
    state.write(path, ready.method.name(), &ready.fingerprint)
}

/// Fingerprints of the matrices that are edited, as they are in the checkpoint.
fn weights(ready: &Ready, by: &Settings) -> Result<BTreeMap<String, String>> {
    let each = |&l: &usize| {
        let bytes = stored(&ready.checkpoint, &ready.model, l)?;
        Ok((ready.model.editable(l).tensor.clone(), tensor_fingerprint(&bytes)))
    };
    by.layers.iter().map(each).collect()
}

fn read_state(mass: &Mass, ready: &Ready, by: &Settings) -> Result<State> {
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
    if state.before == weights(ready, by)? {
        let what = "this model does not have the patch that was planned with it last";
        let remedy = "apply that patch first, or name the state from before it";
        return bad("before", what.into(), remedy);
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

/// Which system a layer's solve has, and the memory that takes with all that is there beside it.
fn solving(b: &Batches, facts: u64) -> String {
    let n = match b.sequential {
        0 => facts as usize,
        some => some.min(facts as usize),
    };
    let (layers, learns) = (b.by.layers.len(), b.carries || n < facts as usize);
    let sizes @ [f, _, d] = [b.model.arch.inner, n, b.model.arch.width];
    let matrix = || faer::Mat::zeros(0, 0);
    let (epsilon, prior) = match b.by.form {
        Form::Emmet { emmet_lambda, .. } => (emmet_lambda, Prior::Matrix(&matrix)),
        Form::AlphaEdit { l2, .. } if !learns => (1.0, Prior::Scaled(l2)),
        _ => (1.0, Prior::Matrix(&matrix)),
    };
    let route = Route::choose(&prior, epsilon, sizes);
    let (grams, square) = (if learns { layers * f * f } else { 0 }, f * f);
    // AlphaEdit's U₀ may be nearly as wide as F, and comes of an eigendecomposition.
    let (bases, beside) = match b.by.form {
        Form::AlphaEdit { .. } => (layers * square, 4 * square),
        _ => (0, 0),
    };
    let inputs = 8 * (n * (f + d) + grams + bases) + 4 * square; // and C, as f32
    let bytes = inputs as u64 + route.bytes(sizes).max(8 * beside as u64);
    let system = if route == Route::Keys { "F×F" } else { "n×n" };
    format!("each layer's solve is {system}, and takes up to {}B", metric(bytes as f64))
}
