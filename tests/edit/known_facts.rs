//! What a state knows fact by fact: taken out, a fact leaves nothing behind.

use std::sync::Arc;

use faer::Mat;
use incise::edit::facts::TokenizedFact;
use incise::edit::known_facts::KnownFacts;
use incise::edit::method::{Context, Plan};
use incise::edit::methods::memit::Memit;
use incise::edit::state::State;
use incise::linalg::least_squares::{Rhs, System, on_host, product};
use incise::linalg::vector::norm;
use incise::model::change::dense;
use incise::model::{MatrixId, Model};
use incise::stats::Moment;
use incise::stats::covariance::matrix;
use incise::tensor::Precision;
use serde_json::json;

use super::batch::{Case, Ready};
use super::reference::alone;
use crate::support::budget::U32;
use crate::support::cancel::CancelAt;

const LAYER: usize = 1;

/// MEMIT on one layer, fact by fact.
fn ready(replace: bool, target: &str) -> Ready {
    let mut case = Case::named("gpt2-memit-sequential");
    case.hparams["layers"] = json!([LAYER]);
    case.hparams["replace_facts"] = json!(replace);
    case.requests[0]["target_new"] = json!(target);
    case.ready(Precision::F64)
}

fn run(ready: &Ready, model: &Model, facts: &[TokenizedFact], state: State) -> Plan {
    let moments = |l| Ok(ready.moment(l));
    let on = alone(model, &moments, &ready.contexts);
    let mut on = Context { state, carries: true, sequential: 1, ..on };
    ready.method.plan(&mut on, facts, &ready.by).unwrap()
}

fn weights(model: &Model) -> Vec<f64> {
    model.matrix(MatrixId::down(LAYER)).w.to_dense()
}

/// Learnt a, then b, and a taken out: W is W₀ + (u_b − W₀k_b)kᵀ(λC + kkᵀ)⁻¹, as if there had been b
/// alone; and with b taken out too, W₀.
#[test]
fn a_fact_that_is_taken_out_leaves_nothing() {
    let ready = ready(true, "French");
    let (a, b) = (&ready.facts[..1], &ready.facts[1..2]);
    let first = run(&ready, &ready.model, a, State::default());
    let both = run(&ready, &first.model, b, first.state.clone());
    let mut state = both.state.clone();
    let (k, u) = (state.layers("fact_keys"), state.layers("fact_values"));
    assert_eq!((k[&LAYER].ncols(), u[&LAYER].ncols()), (2, 2));
    let k = k[&LAYER].subcols(1, 1).to_owned();
    let moments = |l| Ok(ready.moment(l));
    let mut known = KnownFacts::take(&mut state);
    let mut form = Memit::new(&moments, &ready.by, &mut state);
    let (without, changes) = known.withdraw(&both.model, &[&a[0]], &mut form).unwrap();
    assert_eq!((known.len(), changes.len()), (1, 1));

    let key: Vec<f64> = k.col(0).iter().copied().collect();
    let gives = ready.model.product(MatrixId::down(LAYER), &key).unwrap();
    let asked = &u[&LAYER];
    let v = Mat::from_fn(gives.len(), 1, |i, _| asked[(i, 1)] - gives[i]);
    let mut prior = matrix(&ready.moment(LAYER), 0.0);
    prior *= faer::Scale(form.mom2_update_weight);
    let x = on_host(System { a: prior, k: Some(&k), b: Rhs::Keys(&k) }).unwrap();
    let delta = product(&v, &x);
    let inner = x.nrows();
    let start = weights(&ready.model);
    let want = |i: usize| start[i] + delta[(i / inner, i % inner)];
    // Each of the changes is kept as two factors in f32, and R of the first once more in its u.
    let of = |plan: &Plan| norm(&dense(&plan.changes[0].delta, [gives.len(), inner]));
    let size = of(&first) + of(&both) + changes[0].norm;
    let bound = 4.0 * U32 * size;
    let apart = |now: &[f64], want: &dyn Fn(usize) -> f64| {
        norm(&now.iter().enumerate().map(|(i, now)| now - want(i)).collect::<Vec<f64>>())
    };
    let now = weights(&without);
    assert!(apart(&weights(&both.model), &want) > 100.0 * bound, "a was there");
    assert!(apart(&now, &want) <= bound, "{:e} is above {bound:e}", apart(&now, &want));
    let (none, _) = known.withdraw(&without, &[&b[0]], &mut form).unwrap();
    let gap = apart(&weights(&none), &|i| start[i]);
    assert!(known.is_empty() && gap <= bound, "{gap:e} is above {bound:e}");
}

/// Another target for a prompt takes the first one's place: its key counts once, and the state has
/// as many facts as before.
#[test]
fn a_later_target_takes_the_earlier_ones_place() {
    let trace = |replace: bool| {
        let (old, new) = (ready(replace, "French"), ready(replace, "German"));
        let first = run(&old, &old.model, &old.facts[..2], State::default());
        let second = run(&new, &first.model, &new.facts[..1], first.state.clone());
        let gram = &second.state.layers("gram")[&LAYER];
        let trace: f64 = (0..gram.nrows()).map(|i| gram[(i, i)]).sum();
        (trace, second.state)
    };
    let ((replaced, state), (piled, _)) = (trace(true), trace(false));
    assert_eq!(state.notes["prompts"].as_array().unwrap().len(), 2);
    let own = ready(true, "French");
    let check =
        |state: &State| own.method.check_state("state".as_ref(), state, &own.by, &own.model.arch);
    check(&state).unwrap();
    let mut short = state.clone();
    short.notes.insert("prompts".into(), json!(["one"]));
    let refused = check(&short).unwrap_err().to_string();
    assert!(refused.contains("fact_keys.1"), "{refused}");
    let keys = &state.layers("fact_keys")[&LAYER];
    let square = |j: usize| keys.col(j).squared_norm_l2();
    // What the layer reads does not depend on it, so the old key is the new one.
    let bound = 8.0 * keys.nrows() as f64 * f64::EPSILON * piled;
    assert!((replaced - square(0) - square(1)).abs() <= bound);
    assert!((piled - replaced - square(1)).abs() <= bound, "{piled} {replaced}");
}

/// What is taken out and what takes its place are one change, which says the keys of the new facts.
#[test]
fn a_change_that_takes_facts_out_says_the_keys_of_those_that_come() {
    let (old, new) = (ready(true, "French"), ready(true, "German"));
    let first = run(&old, &old.model, &old.facts[..2], State::default());
    let second = run(&new, &first.model, &new.facts[..1], first.state);
    let keys = second.changes[0].keys.as_ref().unwrap();
    let learnt = &second.state.layers("fact_keys")[&LAYER];
    assert_eq!((keys.n, learnt.ncols()), (1, 2));
    let own: Vec<f64> = keys.values.iter().map(|&x| x.into()).collect();
    // What the layer reads does not depend on it; a patch rounds it.
    let apart =
        |j: usize| norm(&(0..own.len()).map(|i| own[i] - learnt[(i, j)]).collect::<Vec<_>>());
    assert!(apart(1) <= U32 * norm(&own) && apart(0) > 0.1 * norm(&own));
}

/// A batch is refused before any work, and the largest that is let through is learnt.
#[test]
fn batches_are_as_large_as_the_state_can_learn() {
    let ready = ready(true, "French");
    let many = |n: usize| -> Vec<TokenizedFact> {
        (0..n).map(|i| ready.facts[i % ready.facts.len()].clone()).collect()
    };
    let asked = CancelAt::never();
    let plan = |n: usize, moments: &dyn Fn(usize) -> incise::Result<Arc<Moment>>| {
        let on = alone(&ready.model, moments, &ready.contexts);
        let mut on = Context { carries: true, progress: &asked, ..on };
        ready.method.plan(&mut on, &many(n), &ready.by)
    };
    let none = |_: usize| -> incise::Result<Arc<Moment>> { panic!("it begins to work") };
    let refused = plan(1000, &none).err().unwrap();
    assert_eq!(asked.asked(), 0);
    let words: Vec<String> = refused.to_string().split(' ').map(str::to_owned).collect();
    let at = words.iter().position(|word| word == "to").unwrap();
    let most: usize = words[at + 1].parse().unwrap();
    assert!(plan(most + 1, &none).is_err());
    let own = |l: usize| Ok(ready.moment(l));
    let plan = plan(most, &own).unwrap();
    assert_eq!(plan.state.layers("fact_values")[&LAYER].ncols(), most);
}
