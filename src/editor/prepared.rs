//! An edit that is ready to be planned: facts tokenised, parameters checked, costs known.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::opened::Opened;
use super::parameters::{does_not_apply, parameters, trained_editor};
use super::places;
use super::requests::{self, Settled};
use super::settings::{Settings, chat_json};
use super::state::{Learner, StateFile};
use crate::base::remedy::Operation;
use crate::base::units::{counted, metric};
use crate::base::{Error, Remedy, Result, Share, memory};
use crate::data::broken::Broken;
use crate::data::conflicts::Superseded;
use crate::data::request::Requests;
use crate::data::{Contexts, Fact};
use crate::edit::cache::Cache;
use crate::edit::contexts;
use crate::edit::cost::Cost;
use crate::edit::facts::{Reading, TokenizedFact, tokenize};
use crate::edit::family::search_cost;
use crate::edit::hparams::HparamSet;
use crate::edit::method::{Batching, Context, Method, Moments};
use crate::edit::params::{self, Params};
use crate::edit::prompts::FactToken;
use crate::edit::search::Search;
use crate::edit::state::State;
use crate::model::{Model, SearchPrecision};
use crate::stats::Moment;
use crate::store::Lineage;
use crate::text::Chat;
use crate::train::TrainedEditor;

/// Where the facts of a call come from, in errors.
pub(super) const CALLER: &str = "facts";

/// An edit that is ready to be planned.
pub struct Prepared {
    pub(super) opened: Arc<Opened>,
    pub(super) settings: Settings,
    pub(super) method: &'static dyn Method,
    pub(super) hparams: HparamSet,
    pub(super) params: Params,
    pub(super) contexts: Contexts,
    pub(super) requests_file: Option<PathBuf>,
    pub(super) requests: Vec<Fact>,
    pub(super) facts: Vec<TokenizedFact>,
    pub(super) superseded: Vec<Superseded>,
    pub(super) skipped: Vec<Broken>,
    /// What was trained for the model, of methods that are.
    pub(super) trained: Option<TrainedEditor>,
    /// The token that ends a text, for methods that train on it.
    end: Option<u32>,
    /// What else a patch records: the seed, where hyperparameters are from, the chat's frame.
    pub(super) notes: Value,
}

impl Prepared {
    /// Of the requests of a file; those of a call or a pipe have a name alone.
    pub(super) fn new(
        opened: Arc<Opened>,
        settings: Settings,
        (file, requests_file): (&Path, Option<PathBuf>),
        requests: Requests,
    ) -> Result<Prepared> {
        let method = settings.chosen()?;
        places::check(&opened, &settings, requests_file.as_deref(), settings.output.as_deref())?;
        let progress = &*settings.progress;
        applies(&settings, method)?;
        let trained = trained_editor(&opened, &settings, method)?;
        let (hparams, params) = parameters(&opened, &settings, method, trained.as_ref())?;
        places::check_trained(&opened, method, &params)?;
        if settings.state.is_some() && !method.needs(&params, &State::default()).state {
            return Err(does_not_apply("state", method));
        }
        let searches = method.search(&params, &opened.model.arch).is_some();
        if opened.model.search_precision == SearchPrecision::Fast && !searches {
            return Err(does_not_apply("precision", method));
        }
        say_unread(&settings, method, &params, searches);
        let reading = reading(&opened, &settings, &params);
        if let Some((why, remedy)) = reading.chat.and_then(Chat::late_answer) {
            progress.advise(&why, &remedy);
        }
        let settle = |contexts: &Contexts| {
            let tokenize = |facts: &[Fact]| tokenize(&opened.model, reading, facts, contexts);
            requests::settle(file, &requests, &settings, &tokenize)
        };
        let contexts = match &settings.contexts {
            _ if !searches => Contexts::bare(),
            Some((_, contexts)) => contexts.clone(),
            None => {
                settle(&Contexts::bare())?; // what is broken is said before contexts are drawn
                contexts::draw(&opened.model, &opened.tokenizer, method, settings.seed)?
            }
        };
        let settled = settle(&contexts)?;
        requests::warn(progress, &settled, searches);
        let Settled { facts, superseded, skipped } = settled;
        let mut notes = json!({
            "seed": settings.seed, "hyperparameters_from": hparams.sources(),
            "chat": reading.chat.map(chat_json).transpose()?,
        });
        if settings.no_space {
            notes["space"] = json!(false);
        }
        let requests = facts.iter().map(|fact| fact.request.clone()).collect();
        Ok(Prepared {
            end: if method.batching() == Batching::Epochs { opened.end()? } else { None },
            trained,
            opened,
            settings,
            method,
            hparams,
            params,
            contexts,
            requests_file,
            requests,
            facts,
            superseded,
            skipped,
            notes,
        })
    }

    /// The facts that are edited.
    pub fn facts(&self) -> &[TokenizedFact] {
        &self.facts
    }

    /// Those whose values are searched here: of a shard its own, else all.
    pub fn own_facts(&self) -> Cow<'_, [TokenizedFact]> {
        match self.share() {
            Some(share) => share_of(&self.facts, share).into(),
            None => (&self.facts[..]).into(),
        }
    }

    /// The share of the facts whose values are searched here, if it is not all.
    pub fn share(&self) -> Option<Share> {
        self.settings.shard
    }

    /// Requests that others took the place of.
    pub fn superseded(&self) -> &[Superseded] {
        &self.superseded
    }

    /// Records that cannot be used and were skipped, in the order in which they were found.
    pub fn skipped(&self) -> &[Broken] {
        &self.skipped
    }

    /// The edited layers, ascending.
    pub fn layers(&self) -> &[usize] {
        self.params.layers()
    }

    /// Hyperparameters by name, and where each is from.
    pub fn hyperparameters(&self) -> [Value; 2] {
        [self.hparams.to_json(), self.hparams.sources()]
    }

    /// The contexts, given or drawn.
    pub fn contexts(&self) -> &Contexts {
        &self.contexts
    }

    /// The layer at which values are searched, if any are.
    pub fn search_layer(&self) -> Option<usize> {
        self.search().map(|search| search.push.top())
    }

    /// Bytes the searches may take.
    pub fn memory(&self) -> u64 {
        let given = self.settings.memory;
        given.or_else(|| self.model().spare()).unwrap_or_else(memory::spare)
    }

    /// What the edit would take, once everything it reads was looked at; of a shard, its searches.
    ///
    /// # Errors
    ///
    /// Statistics or a state that the plan would refuse.
    pub fn cost(&self) -> Result<Cost> {
        let (_, state) = self.state()?;
        self.check_statistics(&state)?;
        let cost = self.cost_from(state);
        self.warn_of_room(&cost);
        Ok(cost)
    }

    pub(super) fn cost_from(&self, state: State) -> Cost {
        let moments = |l| self.moment(l);
        let context = self.context(&moments, None, state);
        match self.share() {
            Some(_) => search_cost(&context, &self.own_facts(), &self.shared_search()),
            None => self.method.cost(&context, &self.facts, &self.params),
        }
    }

    /// What a state has to know of the edit.
    pub(super) fn learner(&self) -> Learner<'_> {
        Learner {
            method: self.method,
            params: &self.params,
            requests: &self.requests,
            opened: &self.opened,
        }
    }

    pub(super) fn model(&self) -> &Model {
        &self.opened.model
    }

    /// What a patch records of how the method ran.
    pub(super) fn plan_notes(&self) -> Result<Vec<(&'static str, Value)>> {
        let settings = &self.settings;
        let layers = self.method.needs(&self.params, &State::default()).statistics;
        let moment = layers.first().map(|&l| self.moment(l)).transpose()?;
        let sequential = (settings.sequential > 0).then_some(settings.sequential);
        let sequential = ("sequential", json!(sequential));
        let mut notes = match self.method.batching() {
            Batching::OneByOne => vec![("tokens", json!(moment.as_ref().map(|m| m.tokens)))],
            Batching::Together | Batching::Turns => vec![sequential],
            Batching::Epochs => vec![("end", json!(self.end)), sequential],
        };
        if let Some(trained) = &self.trained {
            notes.push(("editor", json!(trained.fingerprint())));
        }
        if moment.is_some_and(|moment| moment.origin.normed) {
            notes.push(("normed", json!(true)));
        }
        if let Some(dir) = &settings.statistics {
            let source = |&l: &usize| Ok((l.to_string(), Moment::source_in(dir, l)?));
            let sources = layers.iter().map(source).collect::<Result<BTreeMap<_, _>>>()?;
            notes.push(("statistics", json!(sources))); // as `Metadata::statistics_of` reads it
        }
        Ok(notes)
    }

    pub(super) fn search(&self) -> Option<Search> {
        self.method.search(&self.params, &self.model().arch)
    }

    /// The search whose values shards divide among them.
    pub(super) fn shared_search(&self) -> Search {
        self.search().expect("a shard of a method that searches values")
    }

    pub(super) fn context<'a>(
        &'a self,
        statistics: &'a Moments<'a>,
        cache: Option<&'a mut Cache>,
        state: State,
    ) -> Context<'a> {
        let settings = &self.settings;
        Context {
            model: self.model(),
            statistics,
            contexts: &self.contexts,
            editor: self.trained.as_ref(),
            cache,
            state,
            carries: settings.state.is_some(),
            adds: settings.rounds > 1,
            sequential: settings.sequential,
            memory: self.memory(),
            seed: settings.seed,
            end: self.end,
            tokenizer: Some(&self.opened.tokenizer),
            progress: &*settings.progress,
        }
    }

    /// The statistics of a layer.
    pub(super) fn moment(&self, l: usize) -> Result<Arc<Moment>> {
        let Some(dir) = &self.settings.statistics else {
            let what = format!("{} needs C, and no statistics are named", self.method.about().name);
            let remedy = format!("collect key statistics of layer {l} and name their folder");
            let remedy = Remedy::from(remedy)
                .option("statistics", None)
                .operation(Operation::CollectStatistics);
            return Err(Error::refused(what, remedy));
        };
        let f = self.model().arch.inner;
        let opened = &self.opened;
        let read = Moment::read(dir, l, f, &opened.fingerprint);
        read.map(Arc::new).map_err(|e| say_of_lineage(e, &opened.dir, &opened.fingerprint))
    }

    /// Refuses statistics now, and not after hours of searching.
    pub(super) fn check_statistics(&self, state: &State) -> Result<()> {
        let all = self.settings.shard.is_none();
        let needed = self.method.needs(&self.params, state).statistics;
        needed.into_iter().filter(|_| all).try_for_each(|l| self.moment(l).map(drop))
    }

    pub(super) fn state(&self) -> Result<(Option<StateFile>, State)> {
        match &self.settings.state {
            Some(path) => {
                let (file, state) = StateFile::read(path, &self.learner())?;
                Ok((Some(file), state))
            }
            None => Ok((None, State::default())),
        }
    }

    /// Warns where the least that the work takes is more than it was given.
    pub(super) fn warn_of_room(&self, cost: &Cost) {
        let least = cost.fixed_bytes + cost.at_a_time * cost.bytes_a_fact;
        let Some(given) = self.settings.memory.filter(|given| least > *given) else { return };
        let [given, least] = [given, least].map(|bytes| metric(bytes as f64));
        let sentence =
            format!("{given}B may be taken, and the least is {least}B, which it will be");
        let remedy = Remedy::from("give it as much").option("memory", None);
        self.settings.progress.advise(&sentence, &remedy);
    }

    pub(super) fn remark_cost(&self, cost: &Cost) {
        self.warn_of_room(cost);
        let facts = counted(self.facts.len() as u64, "fact");
        if let Some(training) = &cost.training {
            let bytes = cost.fixed_bytes + cost.at_a_time * cost.bytes_a_fact;
            let below = match training.keeps {
                true => "what lies below the matrices is run once",
                false => "what lies below the matrices is run in every epoch, for want of room",
            };
            return self.settings.progress.remark(&format!(
                "{facts}, {} of a step at a time; training takes up to {}B, the matrices {}B of \
                 it, and {}FLOP; {below}",
                cost.at_a_time,
                metric(bytes as f64),
                metric(training.matrices as f64),
                metric(cost.flop),
            ));
        }
        let system = cost.system.map_or("none", |route| route.words());
        let bytes = metric(cost.solve_bytes as f64);
        let at_a_time = cost.at_a_time;
        self.settings.progress.remark(&format!(
            "{facts}, {at_a_time} at a time; each layer's solve is {system}, and takes up to \
             {bytes}B"
        ));
    }
}

/// Adds to an error about another model's statistics that a lineage names a base which does not
/// count, for the weights are not those it speaks of.
fn say_of_lineage(e: Error, dir: &Path, own: &str) -> Error {
    let foreign = || Lineage::read(dir).ok().flatten().filter(|lineage| lineage.base != own);
    match e {
        Error::Input { path, field, what, remedy } if field == "model" => {
            let hint = foreign().map_or(String::new(), |lineage| {
                let (dir, base) = (dir.display(), lineage.base);
                format!(
                    "; {dir}/.incise/lineage.json says that this model comes from {base}, and is \
                     ignored: these are not the weights that it speaks of"
                )
            });
            Error::Input { path, field, what: what + &hint, remedy }
        }
        e => e,
    }
}

/// Warns of what was given and is not read.
fn say_unread(settings: &Settings, method: &dyn Method, params: &Params, searches: bool) {
    let (progress, name) = (&settings.progress, method.about().name);
    let needs = method.needs(params, &State::default()).statistics;
    if needs.is_empty() && settings.statistics.is_some() {
        let what = "with these hyperparameters";
        progress.warn(&format!("the statistics are not read: {name} needs none {what}"));
    }
    if settings.contexts.is_some() && !searches {
        progress.warn(&format!("the contexts are not read: {name} trains on bare prompts"));
    }
}

/// Refuses settings that do not apply to a method, or contradict each other.
fn applies(settings: &Settings, method: &dyn Method) -> Result<()> {
    if settings.shard.is_some() && settings.sequential > 0 {
        let what = "a shard of a sequential edit: later batches need the earlier ones' edits";
        return Err(Error::refused(what, "leave out one of the two"));
    }
    if method.batching() == Batching::Together {
        if !settings.values.is_empty() && settings.cache_dir().is_none() {
            let what = "values that were found before, and no place to keep them";
            return Err(Error::refused(what, "name an output or a cache"));
        }
        return Ok(());
    }
    // Of what lives beside the weights there is one, of all facts, and its passes have one size.
    let trains = method.batching().reads_bare_texts() && !method.makes_memory();
    let given = [
        ("sequential", settings.sequential > 0 && !trains),
        ("memory", settings.memory.is_some() && !trains),
        ("shard", settings.shard.is_some()),
        ("values", !settings.values.is_empty()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((setting, _)) => Err(does_not_apply(setting, method)),
        None => Ok(()),
    }
}

/// How the texts of requests become tokens.
fn reading<'a>(opened: &'a Opened, settings: &'a Settings, params: &Params) -> Reading<'a> {
    Reading {
        tokenizer: &opened.tokenizer,
        chat: settings.chat.as_deref(),
        at: match params.is(&params::FACT_TOKEN, params::LAST) {
            true => FactToken::Last,
            false => FactToken::SubjectLast,
        },
        space: settings.no_space.then_some(false),
    }
}

/// The facts of a share.
fn share_of(facts: &[TokenizedFact], share: Share) -> Vec<TokenizedFact> {
    let mine = |(at, _): &(usize, &TokenizedFact)| share.has(*at as u64);
    facts.iter().enumerate().filter(mine).map(|(_, fact)| fact.clone()).collect()
}
