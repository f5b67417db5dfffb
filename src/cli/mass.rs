//! `incise edit` with a method for many facts: what it keeps, carries and shares between machines.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::edit::{Edit, Ready, stored, warn_of_ridge};
use super::output::{check_distinct, check_place, check_replaced, counted, metric};
use super::{Context, memory, report, stages};
use crate::base::{Error, Result, Share};
use crate::data::Request;
use crate::edit::batch::Batches;
use crate::edit::facts::Fact;
use crate::edit::hparams::Method;
use crate::edit::kept::{Kept, Values};
use crate::edit::settings::{Form, Settings};
use crate::edit::state::State;
use crate::linalg::least_squares::{Prior, Route};
use crate::store::write::beside;
use crate::store::{Fingerprint, Patch, model_fingerprint, tensor_fingerprint};

/// What is added to a state's name for the one before it.
const BEFORE: &str = ".before";

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
pub fn run(edit: &Edit, method: Method, context: &Context) -> Result<()> {
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
    let room = mass.memory.or_else(|| ready.model.spare()).unwrap_or_else(memory::spare);
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
    let say_kept = |e| say_kept(e, &dir);
    if let Some(share) = mass.shard {
        let facts = shard(&ready.facts, share);
        batches.search(&facts, &mut kept, terminal).map_err(say_kept)?;
        batches.export(&facts, &kept, &edit.output)?;
        return told(edit, context, facts.len());
    }
    if !context.json {
        let (n, few) = (ready.facts.len() as u64, batches.at_a_time(&ready.facts));
        let (facts, (route, bytes)) = (counted(n, "fact"), solving(&batches, n as usize));
        let (system, bytes) = (system(route), metric(bytes as f64));
        terminal.remark(format!(
            "{facts}, {few} at a time; each layer's solve is {system}, and takes up to {bytes}B"
        ))?;
    }
    let began = mass.state.as_deref().and_then(version);
    let planned = batches.run(&ready.facts, state, Some(&mut kept), terminal);
    let (planned, state) = planned.map_err(say_kept)?;
    if let Some(path) = mass.state.as_deref().filter(|path| version(path) != began) {
        let remedy = "apply its patch, and run the same again";
        return Err(Error::input(path, "state", "another run wrote it meanwhile", remedy));
    }
    for l in planned.layers.iter().filter(|l| l.ridge.is_some()) {
        warn_of_ridge(terminal, &*moments(l.layer)?, l.ridge);
    }
    let changed = planned.layers.iter().any(|l| l.norm > 0.0);
    edit.finish(context, &ready, &planned, json!({"sequential": mass.sequential}), || {
        mass.state.as_ref().map_or(Ok(()), |path| write_state(path, state, changed, &ready, &by))
    })
}

/// An interruption, with what is kept of the work.
fn say_kept(e: Error, dir: &Path) -> Error {
    match e {
        Error::Interrupted { .. } => Error::Interrupted {
            kept: format!("what was found is in {}: run the same again", dir.display()),
        },
        e => e,
    }
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
    context.terminal.remark(format!("{known} of {all} values of the first batch were found before"))
}

/// Refuses, before any work, places that are taken: by what is read, or by another output.
fn places(edit: &Edit, kept: &Path) -> Result<()> {
    let report = report::path(&edit.output);
    let before = edit.mass.state.as_ref().map_or_else(PathBuf::new, |s| beside(s, BEFORE));
    let mut outputs = vec![kept, &report, &edit.output];
    if let Some(state) = &edit.mass.state {
        check_place(state, &edit.inputs())?;
        check_replaced(&before, State::is_one(&before), "state")?;
        outputs.extend([state.as_path(), &before]);
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
    let anchored = if by.anchor.is_some() { ", norm_anchor" } else { "" };
    match by.form {
        Form::AlphaEdit { nullspace_threshold, .. } => {
            format!("layers {:?}, nullspace_threshold {nullspace_threshold:e}{anchored}", by.layers)
        }
        _ => format!("layers {:?}{anchored}", by.layers),
    }
}

/// A name for what a request asks, whatever its id.
fn digest(request: &Request) -> String {
    let Request { prompt, subject, target_new, .. } = request;
    let asked = [prompt, subject.as_str(), target_new.trim()].join("\0");
    tensor_fingerprint(asked.as_bytes())
}

/// Tells one writing of a file from another: its number in the file system, length and time.
fn version(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let said = std::fs::metadata(path).ok()?;
    Some((said.ino(), said.len(), said.mtime(), said.mtime_nsec()))
}

/// Writes the state; the one before it stays beside it as `FILE.before`.
fn write_state(
    path: &Path,
    mut state: State,
    changed: bool,
    ready: &Ready,
    by: &Settings,
) -> Result<()> {
    state.requests.extend(ready.requests.iter().map(digest));
    state.settings = settings(by);
    if changed {
        state.before.push(weights(ready, by)?);
    }
    if path.exists() {
        let before = beside(path, BEFORE);
        std::fs::copy(path, &before).map_err(|e| Error::io(&before, "write", e))?;
    }
    state.write(path, ready.method.name(), &ready.fingerprint)
}

/// A fingerprint of the matrices that are edited, as they are in the checkpoint.
fn weights(ready: &Ready, by: &Settings) -> Result<String> {
    let mut all = Fingerprint::default();
    for &l in &by.layers {
        all.add(tensor_fingerprint(&stored(&ready.checkpoint, &ready.model, l)?).as_bytes());
    }
    Ok(all.hex())
}

fn read_state(mass: &Mass, ready: &Ready, by: &Settings) -> Result<State> {
    let Some(path) = mass.state.as_ref().filter(|path| path.exists()) else {
        return Ok(State::default());
    };
    let (method, f) = (ready.method.name(), ready.model.arch.inner);
    let state = State::read(path, method, &ready.fingerprint, f)?;
    let bad =
        |field: &str, what: String, remedy: &str| Err(Error::input(path, field, what, remedy));
    let known: HashSet<&str> = state.requests.iter().map(String::as_str).collect();
    if let Some(known) = ready.requests.iter().find(|r| known.contains(digest(r).as_str())) {
        let what = format!("holds the keys of record `{}` already", known.id);
        let remedy = "apply their patch and go on with other requests, or take the state from \
                      before, which is FILE.before";
        return bad("requests", what, remedy);
    }
    if state.settings != settings(by) {
        let what = format!("is of {}, not of {}", state.settings, settings(by));
        return bad("settings", what, "keep them, or begin another state");
    }
    if state.before.contains(&weights(ready, by)?) {
        let what = "this model is as it was before a patch that was planned with it";
        let remedy = "apply that patch first, or take the state from before it";
        return bad("before", what.into(), remedy);
    }
    if let Some(l) = by.layers.iter().find(|l| !state.grams.contains_key(l)) {
        return bad(&format!("gram.{l}"), "is missing".into(), "begin another state");
    }
    if by.anchor.is_some() && state.anchor.is_none() {
        let what = "there is none: c is of the model before its first edit".to_owned();
        return bad("anchor", what, "begin another state on that model, or take norm_anchor out");
    }
    Ok(state)
}

fn told(edit: &Edit, context: &Context, facts: usize) -> Result<()> {
    let (stages, output) = (context.terminal.stages(), &edit.output);
    let seconds = stages::seconds(&stages);
    if context.json {
        let stages = stages::to_json(&stages);
        let all = json!({"output": output, "values": facts, "seconds": seconds, "stages": stages});
        return context.terminal.json(&all);
    }
    let values = counted(facts as u64, "value");
    context.terminal.line(format!("{}: {values} in {seconds:.1} s", output.display()))?;
    context.terminal.line(stages::line(&stages))
}

/// What would be done, and what it would take.
fn dry_run(edit: &Edit, context: &Context, ready: &Ready, b: &Batches) -> Result<()> {
    let (route, solve_bytes) = solving(b, ready.facts.len());
    let [mean, besides] = b.bytes(&ready.facts);
    edit.say(
        context,
        ready,
        json!({
            "layers": b.by.layers, "search_layer": b.by.site().layer,
            "bytes_a_fact": mean, "bytes_besides": besides, "room_bytes": b.room,
            "at_a_time": b.at_a_time(&ready.facts), "system": system(route),
            "solve_bytes": solve_bytes,
        }),
    )
}

/// Which system a layer's solve has, and the bytes it takes with all that is there beside it.
fn solving(b: &Batches, facts: usize) -> (Route, u64) {
    let n = if b.sequential == 0 { facts } else { b.sequential.min(facts) };
    let (layers, learns) = (b.by.layers.len(), b.carries || n < facts);
    let sizes @ [f, _, d] = [b.model.arch.inner, n, b.model.arch.width];
    let matrix = || faer::Mat::zeros(0, 0);
    let (epsilon, prior) = match b.by.form {
        Form::Emmet { emmet_lambda, .. } => (emmet_lambda, Prior::Matrix(&matrix)),
        Form::AlphaEdit { l2, .. } if !learns => (1.0, Prior::Scaled(l2)),
        _ => (1.0, Prior::Matrix(&matrix)),
    };
    let route = Route::choose(&prior, epsilon, sizes);
    let square = f * f;
    // AlphaEdit's U₀ may be nearly as wide as F, comes of an eigendecomposition, and meets K and X.
    let (bases, beside) = match b.by.form {
        Form::AlphaEdit { .. } => (layers * square, 4 * square),
        _ => (0, 0),
    };
    let kept = bases + if learns { layers * square } else { 0 };
    let values = 3 * facts * d; // t₀, δ, z − t₀
    let here = n * (2 * f + 3 * d); // K, perhaps K̃; Z, H, R
    let factors = layers * facts * (f + d); // f32, until the batches are summed
    let doubles = 8 * (kept + values + here) as u64 + route.bytes(sizes).max(8 * beside as u64);
    (route, doubles + 4 * (square + factors) as u64) // and C
}

/// As it is said.
fn system(route: Route) -> &'static str {
    if route == Route::Primal { "F×F" } else { "n×n" }
}
