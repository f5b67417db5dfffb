//! De Cao's bound on KL by hand-made looks, and the steps of centred RMSprop.

use incise::base::Rng;
use incise::edit::kl_bound::{KlBound, KlBoundRule};
use incise::edit::methods::ke::KE;
use incise::model::completion::Completion;
use incise::model::generate::{Sampling, generate};
use incise::model::gradients::MatrixGradients;
use incise::model::{Batch, NoHook, Past};
use incise::tensor::Precision;
use incise::train::pass::{LossPass, TextLoss};
use incise::train::rms_prop::Schedule;
use incise::train::{Parameters, SampleLoss};
use serde_json::json;

use super::recorded_training::Case;

const RULE: KlBoundRule = KlBoundRule {
    eps: 0.1,
    lr: 0.1,
    margins: [1e-3, 0.7e-3],
    schedule: Schedule { warm_up: 2, steps: 10 },
};

fn value(parameters: &Parameters, name: &str) -> f64 {
    let named = parameters.all().iter().find(|p| p.name == name).unwrap();
    named.value().to_f64()[0]
}

/// It tightens after a look at which more than 0.9 of the edits are said, and no further than it
/// may; and the best look has the least of both losses.
#[test]
fn a_bound_tightens_where_edits_are_said() {
    let case = Case::gpt2("ke");
    let model = case.model(Precision::F32);
    let text = case.samples(&model).remove(0).edit;
    let prompt = &text.read[..text.prompt()];
    let mut rng = Rng::new(0, "greedy");
    let token = generate(&model, prompt, 1, Sampling::GREEDY, &mut rng, &[], &mut |_| true);
    let said = token.unwrap()[0];
    let [says, misses] = [said, said ^ 1].map(|token| Completion::new(prompt, &[token]));
    let mut parameters = Parameters::new(Precision::F64);
    let mut bound = KlBound::new(RULE, &mut parameters);
    let mut look = |said: usize, of: usize| {
        for i in 0..of {
            bound.ask(&model, if i < said { &says } else { &misses }).unwrap();
        }
        let mut loss = SampleLoss { edit: 2.0, locality: 0.5, total: 99.0 };
        bound.looked(&mut parameters, &mut loss);
        assert_eq!(loss.total, 2.5);
        value(&parameters, "margin")
    };
    assert_eq!(look(9, 10), 1e-3, "nine of ten are not more than 0.9");
    assert_eq!(look(10, 10), 0.8e-3);
    assert_eq!(look(0, 3), 0.8e-3);
    assert_eq!(look(20, 21), 0.7e-3, "no less than the least");
    assert_eq!(look(1, 1), 0.7e-3);
}

#[test]
fn numbers_that_contradict_each_other_are_refused() {
    let case = Case::gpt2("ke");
    let model = case.model(Precision::F32);
    let bound = json!({"kl_bound": true, "max_iters": 20, "warmup_updates": 3});
    let check = |name: &str, value: f64| {
        let mut others = bound.clone();
        others[name] = json!(value);
        let by = case.values(others).resolve(&KE, &model);
        by.map_err(|e| e.to_string())
    };
    assert!(check("eps", 0.2).is_ok());
    for (name, value) in [("eps", 1.0), ("margin_kl_min", 0.1), ("warmup_updates", 10.0)] {
        let error = check(name, value).unwrap_err();
        assert!(error.contains(name), "{name}: {error}");
    }
}

/// loss = edit + α (KL − ξ); α goes up where KL is above ξ, down where it is below, and not below
/// 0. RMSprop's second step by hand: v = (1 − a²) g², m = (1 − a²) g for equal g, a = 0.99, at half
/// the rate, for the first moved nothing.
#[test]
fn a_multiplier_follows_the_excess() {
    for (kl, sign) in [(3e-3, 1.0), (0.0, -1.0)] {
        let mut parameters = Parameters::new(Precision::F64);
        let bound = KlBound::new(RULE, &mut parameters);
        let loss = bound.loss(&parameters, [2.0, kl]);
        assert!((loss.total - (2.0 + kl - 1e-3)).abs() < 1e-15);
        let mut alpha = 1.0;
        for step in 0..2 {
            parameters.clear();
            bound.backward(&mut parameters, kl, 0.25);
            bound.backward(&mut parameters, kl, 0.75);
            parameters.step(1e9);
            bound.stepped(&mut parameters);
            if step == 1 {
                let g: f64 = sign * if kl > 0.0 { 2e-3 } else { 1e-3 };
                let held = 1.0 - 0.99f64.powi(2);
                let deviation = (held * g * g - held * held * g * g).sqrt();
                alpha += 0.5 * RULE.lr * g / (deviation + 1e-8);
            }
            let got = value(&parameters, "multiplier");
            assert!((got - alpha.max(0.0)).abs() < 1e-9, "{got} {alpha}");
        }
        for _ in 0..8 {
            parameters.clear();
            bound.backward(&mut parameters, kl, 1.0);
            parameters.step(1e9);
            bound.stepped(&mut parameters);
        }
        assert_eq!(value(&parameters, "multiplier") == 0.0, sign < 0.0);
        // The schedule is over: nothing moves any more.
        let before = value(&parameters, "multiplier");
        bound.backward(&mut parameters, kl, 1.0);
        parameters.step(1e9);
        assert_eq!(value(&parameters, "multiplier"), before);
    }
    let rates: Vec<f64> = (0..=10).map(|n| RULE.schedule.factor(n)).collect();
    assert_eq!(rates[..4], [0.0, 0.5, 1.0, 0.875]);
    assert_eq!(rates[10], 0.0);
}

/// A label has 1 − ε, every other token ε/(V − 1): by hand, from the logits.
#[test]
fn a_smoothed_loss_is_the_sum_over_all_tokens() {
    let case = Case::gpt2("ke");
    let model = case.model(Precision::F64);
    let text = case.samples(&model).remove(1).edit;
    let ids = case.params(&model, json!({})).edited();
    let mut pass = LossPass::new(&model, MatrixGradients::begin_of(&model, &ids));
    let eps = 0.1;
    let got = pass.run(&model, &[(TextLoss::Smoothed(&text, eps), 1.0)], &mut NoHook).unwrap()[0];
    let rows: Vec<usize> = (text.prompt() - 1..text.read.len()).collect();
    let z = model.logits(&Batch::whole([&text.read]), Past::None, &rows).unwrap();
    let (mut want, others) = (0.0, eps / (model.arch.vocabulary as f64 - 1.0));
    for (i, &label) in text.labels.iter().enumerate() {
        let z = z.row_f64(i);
        let sum = z.iter().map(|z| z.exp()).sum::<f64>().ln();
        for (w, z) in z.iter().enumerate() {
            let q = if w == label as usize { 1.0 - eps } else { others };
            want -= q * (z - sum) / text.labels.len() as f64;
        }
    }
    assert!((got - want).abs() < 1e-12 * want, "{got} {want}");
}
