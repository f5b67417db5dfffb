//! What the methods for many facts share: parameters, the search at the last layer of a window,
//! needs, costs, and what a state of theirs holds.

use std::path::Path;

use super::cost::{Cost, Solves};
use super::facts::TokenizedFact;
use super::known_facts::REPLACE_FACTS;
use super::method::{Context, Needs};
use super::params::{self, Absent, Param, ParamKind, Params};
use super::search::memory::{SearchMemory, max_tokens};
use super::search::packing::suffix_tokens;
use super::search::{LOSS_TOLERANCE, Push, Search};
use super::state::{State, misfit};
use crate::base::{Error, Result};
use crate::linalg::least_squares::Route;
use crate::model::arch::Arch;
use crate::model::{At, Site};

/// λ.
pub const MOM2_UPDATE_WEIGHT: Param = Param {
    name: "mom2_update_weight",
    kind: ParamKind::Number(params::Range::AboveRounding),
    absent: Absent::Needed,
    about: "λ: how many keys of running text count as much as one fact's.",
};
/// Whether values keep the length they had on the first model.
pub const NORM_ANCHOR: Param = Param {
    name: "norm_anchor",
    kind: ParamKind::SwitchOrNumber(params::Range::Positive),
    absent: Absent::Unused("false"),
    about: "Whether values keep the length they had on the first model, or one that is given \
            (arXiv:2602.02543).",
};
/// How many facts the anchor is measured on.
pub const NORM_ANCHOR_SAMPLES: Param = Param {
    name: "norm_anchor_samples",
    kind: ParamKind::Count,
    absent: Absent::Unused("100"),
    about: "Facts the norm anchor is measured on.",
};
/// Of methods that the norm anchor was not made for.
pub const NO_NORM_ANCHOR: Param = Param {
    kind: ParamKind::Only("false"),
    about: "The norm anchor is for memit, encore, alphaedit and betaedit.",
    ..NORM_ANCHOR
};
/// ν.
pub const UPDATE_NORM_LAMBDA: Param = Param {
    name: "update_norm_lambda",
    kind: ParamKind::Number(params::Range::FromZero),
    absent: Absent::Unused("0"),
    about: "ν: weight of the size of the change.",
};
/// When the search has seen enough (ENCORE's most-probable early stop).
pub const EARLY_STOP: Param = Param {
    name: "early_stop",
    kind: ParamKind::Count,
    absent: Absent::Unused("never"),
    about: "The search ends at the look at which all target tokens are the likeliest in all \
            contexts for the so many-th time.",
};
/// Without C there is no closed form.
pub const MOM2_ADJUSTMENT_ON: Param = Param {
    name: "mom2_adjustment",
    kind: ParamKind::Only("true"),
    absent: Absent::Unused("true"),
    about: "Whether C shapes the change; here it always does.",
};

/// Requests the norm anchor is measured on where nothing is said.
pub const SAMPLES: usize = 100;
/// Σ KKᵀ of keys so far, in a state.
pub const GRAM: &str = "gram";
/// c of the norm anchor, in a state.
pub const ANCHOR: &str = "anchor";

/// The value search of methods that edit a window of layers: at the last of them.
pub fn search(by: &Params, arch: &Arch, at: At) -> Search {
    let layer = by.last_layer();
    let top = arch.layers - 1;
    let loss_layer = by.count_if_given(&params::V_LOSS_LAYER).unwrap_or(top).max(layer);
    Search {
        push: Push { site: Site { layer, at }, attention: false, above: 0, loss_layer },
        steps: by.count(&params::V_NUM_GRAD_STEPS),
        lr: by.number(&params::V_LR),
        weight_decay: by.number(&params::V_WEIGHT_DECAY),
        clamp: by.number(&params::CLAMP_NORM_FACTOR),
        kl_factor: by.number(&params::KL_FACTOR),
        nll_factor: 1.0,
        anneal_nll: false,
        early_stop: by.count_if_given(&EARLY_STOP).unwrap_or(0),
        loss_tolerance: LOSS_TOLERANCE,
    }
}

/// Why a method that spreads facts over a window of layers does not edit a family.
pub fn norm_behind(method: &str, arch: &Arch) -> Error {
    let what = format!(
        "{method} asks what the stream lacks of the down projections, and in {} a norm stands \
         between the two",
        arch.family
    );
    let remedy = "edit one layer, with rome, r-rome or emmet, or several by their own values, with \
                  emmet and spread=values";
    Error::refused(what, remedy)
}

/// C of every edited layer, and a state if wanted.
pub fn needs(by: &Params) -> Needs {
    Needs { statistics: by.layers().to_vec(), state: true }
}

/// What has to stay the same while a state is carried on, `more` included.
pub fn state_settings(by: &Params, more: &str) -> String {
    let anchored = match by.number_of_switch(&NORM_ANCHOR) {
        Some(c) => format!(", norm_anchor {c:e}"),
        None if by.is_on(&NORM_ANCHOR) => ", norm_anchor".to_owned(),
        None => String::new(),
    };
    let replaces = if by.is_on(&REPLACE_FACTS) { ", replace_facts" } else { "" };
    format!("layers {:?}{more}{anchored}{replaces}", by.layers())
}

/// Checks the Grams of a state, whose width `width` gives by layer, and the anchor.
///
/// # Errors
///
/// One that is missing or of another width; an anchor that is missing or no length.
pub fn check_state(
    path: &Path,
    state: &State,
    by: &Params,
    width: &dyn Fn(usize) -> usize,
) -> Result<()> {
    let grams = state.layers(GRAM);
    for &l in by.layers() {
        let name = format!("{GRAM}.{l}");
        let Some(gram) = grams.get(&l) else {
            return Err(misfit(path, &name, "is missing".into()));
        };
        let (rows, columns, want) = (gram.nrows(), gram.ncols(), width(l));
        if rows != want || columns != want {
            let what = format!("is {rows} by {columns}, not {want} by {want}");
            return Err(misfit(path, &name, what));
        }
    }
    let anchor = state.notes.get(ANCHOR);
    if anchor.is_some_and(|_| c_of(state).is_none()) {
        return Err(misfit(path, ANCHOR, "is not a length".into()));
    }
    if by.is_on(&NORM_ANCHOR) && anchor.is_none() {
        let what = "there is none: c is of the model before its first edit; begin another state \
                    on that model, or take norm_anchor out";
        return Err(misfit(path, ANCHOR, what.into()));
    }
    Ok(())
}

/// Whether values get a length, measured or given.
pub fn is_anchored(by: &Params) -> bool {
    by.is_on(&NORM_ANCHOR) || by.number_of_switch(&NORM_ANCHOR).is_some()
}

/// c of the norm anchor, where a state has it.
pub fn c_of(state: &State) -> Option<f64> {
    state.notes.get(ANCHOR)?.as_f64().filter(|c| c.is_finite() && *c > 0.0)
}

/// What an edit would take: the searches, and solves whose route and bytes `solve` gives.
pub fn cost(
    on: &Context,
    facts: &[TokenizedFact],
    search: &Search,
    by: &Params,
    solve: &dyn Fn(&Solves) -> (Route, u64),
) -> Cost {
    let arch = &on.model.arch;
    let batch = if on.sequential == 0 { facts.len() } else { on.sequential.min(facts.len()) };
    let solves = Solves {
        f: arch.inner,
        d: arch.width,
        layers: by.layers().len(),
        facts: facts.len(),
        batch,
        learns: on.carries || batch < facts.len(),
    };
    let (route, solve_bytes) = solve(&solves);
    let searched = search_cost(on, facts, search);
    Cost { solve_bytes, system: Some(route), flop: searched.flop + solves.flop(route), ..searched }
}

/// What the searches of facts take alone.
pub fn search_cost(on: &Context, facts: &[TokenizedFact], search: &Search) -> Cost {
    let (model, push) = (on.model, &search.push);
    let rows = || facts.iter().map(|f| &f.rows);
    let n = facts.len().max(1) as u64;
    let SearchMemory { facts: bytes, fixed_bytes } = SearchMemory::new(model, push, rows());
    let bytes_a_fact = bytes.iter().sum::<u64>() / n;
    let tokens: usize = rows().map(suffix_tokens).sum();
    let by_memory = on.memory.saturating_sub(fixed_bytes) / bytes_a_fact.max(1);
    let by_tokens = max_tokens(model) as u64 * n / tokens.max(1) as u64;
    // Forward and backward for activations: 4 a weight, token and step, above the edited layer.
    let weights: usize = push.layers_above().map(|l| model.weights_of_layer(l)).sum();
    let weights = weights as f64;
    Cost {
        bytes_a_fact,
        fixed_bytes,
        at_a_time: by_memory.min(by_tokens).clamp(1, n),
        solve_bytes: 0,
        system: None,
        training: None,
        flop: 4.0 * weights * tokens as f64 * search.steps as f64,
    }
}
