//! The value search's gradient against central differences of its loss, in f64.

use incise::edit::prompts::{FactRows, PromptRow};
use incise::edit::search::objective::Objective;
use incise::edit::search::packing::shared_prefixes;
use incise::edit::search::{LossStep, Push};
use incise::model::prefix::PrefixCache;
use incise::model::{At, Model, Site};
use incise::ops::linear::BATCH_INVARIANT_ROWS;
use incise::tensor::{Precision, Tensor};

use crate::support::budget::{self, along, inner};
use crate::support::golden::Golden;
use crate::support::toy::{Draw, Fill};

/// A fact's rows: (tokens before the subject's last one, and after it), and those of the target.
struct Shape {
    case: &'static str,
    rewriting: &'static [(usize, usize)],
    kl: (usize, usize),
    target: usize,
}

const FACTS: [Shape; 4] = [
    Shape { case: "several rows", rewriting: &[(3, 2), (9, 1), (0, 4)], kl: (2, 2), target: 3 },
    Shape { case: "at the very start", rewriting: &[(0, 3)], kl: (0, 2), target: 2 },
    Shape { case: "the last token", rewriting: &[(4, 0), (7, 0)], kl: (4, 0), target: 1 },
    Shape { case: "the only token", rewriting: &[(0, 0)], kl: (0, 0), target: 1 },
];

const KL_FACTOR: f64 = 0.0625;

fn rows(model: &Model, draw: &mut Draw, shape: &Shape) -> FactRows {
    let mut ids = |n: usize| -> Vec<u32> {
        (0..n).map(|_| draw.below(model.arch.vocabulary) as u32).collect()
    };
    let target = ids(shape.target);
    let mut row = |&(before, after): &(usize, usize), end: &[u32]| PromptRow {
        ids: [ids(before + 1 + after), end.to_vec()].concat(),
        lookup: before,
    };
    let end = &target[..shape.target - 1];
    let rewriting = shape.rewriting.iter().map(|at| row(at, end)).collect();
    FactRows { rewriting, kl: row(&shape.kl, &[]), keys: vec![], target, merged: 0 }
}

/// Losses (facts) and gradients (facts, P·D) at δ (facts, P·D), after the first step at δ = 0.
struct Search<'m>(Objective<'m>, usize);

impl<'m> Search<'m> {
    fn new(model: &'m Model, push: Push, facts: &[&FactRows]) -> Search<'m> {
        let shared = shared_prefixes(facts.iter().copied());
        let prefixes = PrefixCache::run(model, &shared, push.layers(), BATCH_INVARIANT_ROWS);
        let mut objective = Objective::new(model, push, KL_FACTOR, prefixes, BATCH_INVARIANT_ROWS);
        let t0 = objective.admit(facts);
        let mut search = Search(objective, facts.len());
        let losses = search.step(&Tensor::zeros(&model.compute, t0.shape())).0;
        assert!(losses.iter().all(|l| l.kl == 0.0 && l.nll > 0.0), "KL is exactly 0 at δ = 0");
        search
    }

    fn step(&mut self, delta: &Tensor) -> (Vec<LossStep>, Tensor) {
        let f = Tensor::of(self.0.compute(), &[self.1, 1], &vec![1.0; self.1]);
        let gradient = self.0.gradient(delta, &f);
        ((0..self.1).map(|fact| self.0.loss(fact)).collect(), gradient)
    }

    fn at(&mut self, delta: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let delta = Tensor::of(self.0.compute(), &[self.1, delta.len() / self.1], delta);
        let (losses, gradient) = self.step(&delta);
        (losses.iter().map(LossStep::total).collect(), gradient.to_f64())
    }
}

/// One model of each shape of the backward pass: sequential and parallel, one norm and two, every
/// activation, partial rotary of both pairings, windows, normalised heads, norms behind, caps, a
/// factor of what joins the stream.
const MODELS: [&str; 12] = [
    "gpt2",
    "gpt2-scaled",
    "llama-tied",
    "llama-linear",
    "gptj",
    "neox",
    "opt",
    "mistral",
    "qwen3",
    "olmo2",
    "gemma2",
    "granite",
];

fn each_push(precision: Precision, test: impl Fn(&str, &Model, Push)) {
    for name in MODELS {
        let model = Golden::open(name).model(precision);
        // Through every layer, from between, and through the head alone.
        let loss_layer = model.arch.layers - 1;
        for (layer, at, attention, above) in [
            (0, At::VALUE, false, 0),
            (1, At::Stream, false, 0),
            (loss_layer, At::VALUE, false, 0),
            (1, At::VALUE, true, 0),
            (loss_layer, At::VALUE, true, 0),
            (0, At::VALUE, false, loss_layer),
        ] {
            let push = Push { site: Site { layer, at }, attention, above, loss_layer };
            if attention && push.norm(&model).is_some() {
                continue; // PMET refuses such a model
            }
            test(&format!("{name}, {push:?}"), &model, push);
        }
    }
}

#[test]
fn the_gradient_is_the_slope() {
    each_push(Precision::F64, |place, model, push| {
        for shape in &FACTS {
            let case = format!("{place}, {}", shape.case);
            let mut draw = Draw::new(&case, false);
            let rows = rows(model, &mut draw, shape);
            let mut search = Search::new(model, push, &[&rows]);
            let delta = draw.fill(Fill::Wide(0.3), push.vectors() * model.arch.width);
            let (loss, gradient) = search.at(&delta);
            let length = inner(&gradient, &gradient).sqrt();
            let search = std::cell::RefCell::new(search);
            for _ in 0..2 {
                // Any direction will do; along the gradient the slope is not lost in noise.
                let aside = draw.fill(Fill::Wide(0.3), gradient.len());
                let v = along(&aside, 1.0 / length, &gradient);
                let f = |t: f64| search.borrow_mut().at(&along(&delta, t, &v)).0[0];
                // As in `Golden::check`: 512 units of a logit, twice in a log-probability.
                let noise = 2.0 * 512.0 * f64::EPSILON * loss[0].max(1.0);
                budget::central(&case, inner(&gradient, &v), noise, f);
            }
        }
    });
}

/// To the last bit, whoever else is in the batch, however much of the prefixes is shared, and
/// whether a fact came first or took another's slot.
#[test]
fn facts_do_not_see_each_other() {
    for precision in [Precision::F32, Precision::F64] {
        each_push(precision, |place, model, push| {
            let mut draw = Draw::new(place, false);
            let mut facts: Vec<FactRows> =
                FACTS.iter().map(|shape| rows(model, &mut draw, shape)).collect();
            let d = push.vectors() * model.arch.width;
            for i in 1..6 {
                // The same beginnings, so that something is shared.
                let mut next = facts[0].clone();
                next.rewriting.iter_mut().for_each(|r| r.ids[r.lookup] = i);
                facts.push(next);
            }
            let delta = draw.fill(Fill::Wide(0.3), facts.len() * d);
            let of = |i: usize| &delta[i * d..][..d];
            let alone: Vec<_> = facts
                .iter()
                .enumerate()
                .map(|(i, fact)| Search::new(model, push, &[fact]).at(of(i)))
                .collect();
            let hold = |chosen: &[usize], search: &mut Search, what: &str| {
                let at: Vec<f64> = chosen.iter().flat_map(|&i| of(i).to_vec()).collect();
                let (losses, gradients) = search.at(&at);
                for (j, &i) in chosen.iter().enumerate() {
                    assert_eq!(losses[j], alone[i].0[0], "{place}, {what}: loss of fact {i}");
                    let own = &gradients[j * d..][..d];
                    assert_eq!(own, alone[i].1, "{place}, {what}: gradient of fact {i}");
                }
            };
            let of_all = |chosen: &[usize]| chosen.iter().map(|&i| &facts[i]).collect::<Vec<_>>();
            let mut all = Search::new(model, push, &of_all(&[0, 1, 2, 3, 4, 5, 6, 7, 8]));
            hold(&[0, 1, 2, 3, 4, 5, 6, 7, 8], &mut all, "all");
            let mut same = Search::new(model, push, &of_all(&[7, 4, 8, 5]));
            hold(&[7, 4, 8, 5], &mut same, "shuffled and split");

            // Two leave, and one of them comes back into a slot of its own.
            all.0.retain(&[true, false, true, true, true, false, true, true, true]);
            all.0.admit(&[&facts[1]]);
            all.1 = 8;
            let now = [0, 2, 3, 4, 6, 7, 8, 1];
            let rest = |&i: &usize| if i == 1 { vec![0.0; d] } else { of(i).to_vec() };
            all.at(&now.iter().flat_map(rest).collect::<Vec<_>>());
            hold(&now, &mut all, "refilled");
        });
    }
}
