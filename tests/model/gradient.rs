//! The value search's gradient against central differences of its loss, in f64.

use incise::model::pushed::{Problem, Pushed};
use incise::model::{At, Model, Site};
use incise::tensor::{Precision, Tensor};
use incise::text::{Row, Rows};

use crate::support::budget::{self, along, inner, off};
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

fn rows(model: &Model, draw: &mut Draw, shape: &Shape) -> Rows {
    let mut ids = |n: usize| -> Vec<u32> {
        (0..n).map(|_| draw.below(model.arch.vocabulary) as u32).collect()
    };
    let target = ids(shape.target);
    let mut row = |&(before, after): &(usize, usize), end: &[u32]| Row {
        ids: [ids(before + 1 + after), end.to_vec()].concat(),
        lookup: before,
    };
    let end = &target[..shape.target - 1];
    let rewriting = shape.rewriting.iter().map(|at| row(at, end)).collect();
    Rows { rewriting, kl: row(&shape.kl, &[]), keys: vec![], target, merged: 0 }
}

/// Losses (facts) and gradients (facts, D) at δ (facts, D), after the first look at δ = 0.
struct Search<'m>(Pushed<'m>);

impl<'m> Search<'m> {
    fn new(model: &'m Model, site: Site, facts: &[&Rows]) -> Search<'m> {
        let problem = |&rows| Problem { rows, kl_factor: KL_FACTOR };
        let problems: Vec<Problem> = facts.iter().map(problem).collect();
        let mut pushed = Pushed::new(model, site, model.arch.layers - 1, &problems);
        let (parts, _) =
            pushed.step(&Tensor::zeros(model.precision, &[facts.len(), model.arch.width]));
        assert!(parts.iter().all(|p| p.kl == 0.0 && p.nll > 0.0), "KL is exactly 0 at δ = 0");
        Search(pushed)
    }

    fn at(&mut self, delta: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let like = &self.0.unpushed;
        let delta = Tensor::of(like.precision(), like.shape(), delta);
        let (parts, gradient) = self.0.step(&delta);
        (parts.iter().map(|p| p.nll + p.kl).collect(), gradient.to_f64())
    }
}

/// One model of each shape of the backward pass: sequential and parallel, one norm and two, every
/// activation, partial rotary of both pairings, windows, normalised heads.
const MODELS: [&str; 9] = [
    "gpt2",
    "gpt2-scaled",
    "llama-tied",
    "llama-linear",
    "gptj",
    "neox",
    "opt",
    "mistral",
    "qwen3",
];

fn each_site(test: impl Fn(&str, &Model, Site)) {
    for name in MODELS {
        let model = Golden::open(name).model(Precision::F64);
        // Through every layer, from between, and through the head alone.
        let top = model.arch.layers - 1;
        for (layer, at) in [(0, At::Value), (1, At::Stream), (top, At::Value)] {
            test(&format!("{name}, layer {layer}, {at:?}"), &model, Site { layer, at });
        }
    }
}

#[test]
fn the_gradient_is_the_slope() {
    each_site(|place, model, site| {
        for shape in &FACTS {
            let case = format!("{place}, {}", shape.case);
            let mut draw = Draw::new(&case, false);
            let rows = rows(model, &mut draw, shape);
            let mut search = Search::new(model, site, &[&rows]);
            let delta = draw.fill(Fill::Wide(0.3), model.arch.width);
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

#[test]
fn facts_do_not_see_each_other() {
    each_site(|place, model, site| {
        let mut draw = Draw::new(place, false);
        let facts: Vec<Rows> = FACTS.iter().map(|shape| rows(model, &mut draw, shape)).collect();
        let d = model.arch.width;
        let delta = draw.fill(Fill::Wide(0.3), facts.len() * d);
        let together = facts.iter().collect::<Vec<_>>();
        let (losses, gradients) = Search::new(model, site, &together).at(&delta);
        for (i, fact) in facts.iter().enumerate() {
            let own = i * d..(i + 1) * d;
            let (loss, gradient) = Search::new(model, site, &[fact]).at(&delta[own.clone()]);
            // More rows may take another route through a product: 512 units, as above.
            let close = |got: &[f64], want: &[f64]| {
                let top = want.iter().fold(0.0f64, |a, w| a.max(w.abs()));
                off(got, want) <= 512.0 * f64::EPSILON * top
            };
            assert!(close(&[losses[i]], &loss), "{place}: the loss of fact {i}");
            assert!(close(&gradients[own], &gradient), "{place}: the gradient of fact {i}");
        }
    });
}
