//! Causal tracing against `tools/reference_trace.py`, which runs the whole model for every single
//! restoration, and against what must hold of itself.

use std::fs;
use std::path::PathBuf;

use incise::base::Quiet;
use incise::eval::trace::average::RunningMean;
use incise::eval::trace::noise::{draw, embedding_deviation};
use incise::eval::trace::{
    AverageEffects, CausalTrace, EditLayers, HeatMap, PromptRuns, Restoration, TokenRole,
    TraceOutcome, TraceSettings, TracedPrompt, TracedState,
};
use incise::model::Model;
use incise::store::Checkpoint;
use incise::tensor::{Compute, Precision};
use incise::text::Tokenizer;
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::Value;

use crate::support::budget::{U32, U64};
use crate::support::cancel::CancelAt;
use crate::support::golden::{digits, learned_positions};
use crate::support::root;
use crate::support::shared::shared;
use crate::support::twin;

#[derive(Clone, Deserialize)]
struct Case {
    name: String,
    model: String,
    #[serde(default)]
    shared: bool,
    facts: Vec<Respondent>,
    samples: usize,
    window: usize,
    nu: f64,
    seed: u32,
}

#[derive(Clone, Deserialize)]
struct Respondent {
    prompt: String,
    subject: String,
}

fn golden() -> PathBuf {
    root().join("tests/golden")
}

impl Case {
    fn all() -> Vec<Case> {
        serde_json::from_slice(&fs::read(golden().join("trace/cases.json")).unwrap()).unwrap()
    }

    fn protocol(&self) -> TraceSettings {
        let Case { samples, window, nu, seed, .. } = *self;
        TraceSettings { samples, window, nu, seed }
    }

    fn open(&self, compute: impl Into<Compute>) -> Option<(Model, Vec<TracedPrompt>)> {
        let dir = match self.shared {
            true => shared("trace", &self.model)?,
            false => golden().join(&self.model),
        };
        let model = Model::load(&Checkpoint::open(&dir).unwrap(), compute).unwrap();
        let tok = Tokenizer::open(&dir).unwrap();
        let prompt =
            |f: &Respondent| TracedPrompt::new(&model, &tok, &f.prompt, &f.subject).unwrap();
        let prompts = self.facts.iter().map(prompt).collect();
        Some((model, prompts))
    }
}

/// The tiny GPT-2, and its first prompt.
fn tiny(compute: impl Into<Compute>) -> (Case, Model, TracedPrompt) {
    let case = Case::all().into_iter().find(|case| case.name == "gpt2").unwrap();
    let (model, mut prompts) = case.open(compute).unwrap();
    (case, model, prompts.remove(0))
}

fn traced(by: &TraceSettings, model: &Model, prompt: &TracedPrompt) -> CausalTrace {
    match by.trace(model, prompt, None, &Quiet).unwrap() {
        TraceOutcome::Traced(trace) => trace,
        TraceOutcome::Skipped(token) => panic!("token {token} was not expected"),
    }
}

/// How far a probability may be from the record: twice as far as the reference's own f32 runs of
/// any case (one case is luck), plus a rounding. In f64 a pass loses 2⁻²⁹ of that, but for rotary
/// tables, which are f32; the shared model has none.
fn bound(case: &Case, compute: &Compute) -> f64 {
    let off = |case: &Case| {
        let bytes = fs::read(golden().join(format!("trace/{}.safetensors", case.name))).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let made: Value =
            serde_json::from_str(&header.metadata().as_ref().unwrap()["made"]).unwrap();
        made["f32_p"].as_f64().unwrap()
    };
    let worst = Case::all().iter().map(off).fold(0.0, f64::max);
    let double =
        compute.precision() == Precision::F64 && (case.shared || learned_positions(&case.model));
    let digits = if double { 0.75 * U64 / U32 } else { digits(compute) };
    digits * (2.0 * worst + U32)
}

fn check(case: &Case, compute: impl Into<Compute>) {
    let compute = compute.into();
    let Some((model, prompts)) = case.open(&compute) else { return };
    let file = fs::read(golden().join(format!("trace/{}.safetensors", case.name))).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let (bound, mut worst) = (bound(case, &compute), 0.0f64);
    for (i, prompt) in prompts.iter().enumerate() {
        let words =
            |name: &str| file.tensor(&format!("{i}.{name}")).unwrap().data().as_chunks::<8>().0;
        let numbers = |name| words(name).iter().map(|b| f64::from_le_bytes(*b)).collect::<Vec<_>>();
        let integers =
            |name| words(name).iter().map(|b| i64::from_le_bytes(*b)).collect::<Vec<_>>();
        let subject = [prompt.subject.start as i64, prompt.subject.end as i64];
        assert_eq!(integers("subject"), subject, "{}: subject {i}", case.name);
        let ours = traced(&case.protocol(), &model, prompt);
        assert_eq!(integers("answer"), [i64::from(ours.answer)], "{}: answer {i}", case.name);
        let mut hold = |ours: f64, want: f64| worst = worst.max((ours - want).abs());
        let p = numbers("p");
        hold(ours.p_high, p[0]);
        hold(ours.p_low, p[1]);
        for (state, ie) in TracedState::ALL.iter().zip(&ours.ie) {
            let want = numbers(state.name());
            assert_eq!(want.len(), ie.iter().map(Vec::len).sum::<usize>());
            for (ie, want) in ie.iter().flatten().zip(want) {
                hold(ours.p_low + ie, want);
            }
        }
    }
    println!("{} {compute:?}: off {worst:.1e}, bound {bound:.1e}", case.name);
    assert!(worst <= bound, "{} {compute:?}: off by {worst:e} > {bound:e}", case.name);
}

#[test]
fn effects_are_those_of_an_independent_run() {
    for mut case in Case::all() {
        check(&case, Precision::F32);
        case.facts.truncate(if case.shared { 1 } else { 3 }); // f64 takes its time
        check(&case, Precision::F64);
    }
}

#[test]
fn kernels_find_the_same_effects() {
    let Some(engine) = twin::fastest("eval::trace::kernels_find_the_same_effects") else { return };
    let mut case = Case::all().remove(0);
    case.facts.truncate(1);
    check(&case, engine);
}

/// Restoring the stream of all tokens behind any layer is the clean run; restoring nothing more
/// than the last token's there too, behind the last layer; and what is before the subject has no
/// effect. To the bit, as all passes run the same sums.
#[test]
fn restoring_everything_gives_the_clean_run() {
    for precision in [Precision::F32, Precision::F64] {
        let (case, model, prompt) = tiny(precision);
        let TracedPrompt { ids, subject } = &prompt;
        let shape = [case.samples, subject.len(), model.arch.width];
        let runs = PromptRuns::new(&model, ids, subject.clone(), &draw(1, case.nu, shape)).unwrap();
        let t = ids.len();
        let restored = |state, tokens, layers| {
            let all = [Restoration { state, tokens, layers }];
            runs.restored(&all, &Quiet).unwrap()[0]
        };
        let near = |p: f64, want: f64| assert!((p - want).abs() <= 2.0 * U64, "{p} {want}");
        assert!(runs.p_high - runs.p_low > 0.05);
        for l in 0..model.arch.layers {
            near(restored(TracedState::Hidden, 0..t, l..l + 1), runs.p_high);
            near(restored(TracedState::Hidden, subject.start..t, l..l + 1), runs.p_high);
            for state in TracedState::ALL {
                near(restored(state, 0..subject.start, l..l + 1), runs.p_low);
            }
        }
        let last = model.arch.layers - 1;
        near(restored(TracedState::Hidden, t - 1..t, last..last + 1), runs.p_high);
        near(restored(TracedState::Hidden, t - 2..t - 1, last..last + 1), runs.p_low);
        // MLPs and attention carry all that layers add, but not the embedding that was corrupted.
        assert!(restored(TracedState::Mlp, 0..t, 0..last + 1) != runs.p_low);
    }
}

#[test]
fn no_noise_has_no_effect() {
    let (case, model, prompt) = tiny(Precision::F32);
    let trace = traced(&TraceSettings { nu: 0.0, ..case.protocol() }, &model, &prompt);
    assert!(trace.total().abs() <= 2.0 * U64, "{}", trace.total());
    assert!(trace.ie.iter().flatten().flatten().all(|ie| ie.abs() <= 2.0 * U64));
}

/// To the bit: restorations of a pass do not see each other.
#[test]
fn restorations_together_are_those_alone() {
    let (case, model, prompt) = tiny(Precision::F32);
    let TracedPrompt { ids, subject } = &prompt;
    let noise = draw(1, case.nu, [case.samples, subject.len(), model.arch.width]);
    let runs = PromptRuns::new(&model, ids, subject.clone(), &noise).unwrap();
    let mut all = Vec::new();
    for state in TracedState::ALL {
        for token in 0..ids.len() {
            for l in 0..model.arch.layers {
                all.push(Restoration { state, tokens: token..token + 1, layers: l..l + 1 });
            }
        }
    }
    let together = runs.restored(&all, &Quiet).unwrap();
    for (one, p) in all.iter().zip(together) {
        let alone = runs.restored(std::slice::from_ref(one), &Quiet).unwrap();
        assert_eq!(alone, [p], "{one:?}");
    }
}

#[test]
fn what_the_model_does_not_say_is_skipped_and_a_cancelled_run_ends() {
    let (case, model, prompt) = tiny(Precision::F32);
    let by = case.protocol();
    let answer = traced(&by, &model, &prompt).answer;
    let expecting = |token| by.trace(&model, &prompt, Some(token), &Quiet).unwrap();
    assert!(matches!(expecting(answer), TraceOutcome::Traced(_)));
    assert_eq!(expecting(answer + 1), TraceOutcome::Skipped(answer));
    let cancelled = by.trace(&model, &prompt, None, &CancelAt::question(2));
    assert_eq!(cancelled.unwrap_err().code(), "interrupted");
}

#[test]
fn noise_is_the_published_draw_and_its_strength_that_of_the_embeddings() {
    let noise = draw(1, 2.0, [2, 1, 2]);
    let numpy = [1.6243453636632417, -0.6117564136500754, -0.5281717522634557, -1.0729686221561705];
    noise.iter().zip(numpy).for_each(|(ours, n)| assert!((ours - 2.0 * n).abs() < 1e-15));
    let (_, model, prompt) = tiny(Precision::F64);
    let ids = &prompt.ids;
    let entries: Vec<f64> = ids
        .iter()
        .flat_map(|&id| {
            let mut row = vec![0.0; model.arch.width];
            model.embed.row(id as usize, &mut row);
            row
        })
        .collect();
    let mean = entries.iter().sum::<f64>() / entries.len() as f64;
    let variance = entries.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let want = (variance / (entries.len() - 1) as f64).sqrt();
    let apart: Vec<Vec<u32>> = ids.iter().map(|&id| vec![id]).collect();
    let ours = embedding_deviation(&model, &apart).unwrap();
    assert!((ours - want).abs() <= 1e-12 * want, "{ours} {want}");
}

/// A trace in which token i of a layer has the effect i.
fn counting(tokens: usize, layers: usize) -> CausalTrace {
    let rows: Vec<Vec<f64>> = (0..tokens).map(|i| vec![i as f64; layers]).collect();
    CausalTrace { answer: 0, p_high: 0.75, p_low: 0.25, ie: [rows.clone(), rows.clone(), rows] }
}

#[test]
fn averages_are_by_the_role_of_a_token() {
    let prompt = |tokens, subject| TracedPrompt { ids: vec![0; tokens], subject };
    let mut average = AverageEffects::new(2);
    average.add(&prompt(9, 1..5), &counting(9, 2));
    let means = |average: &AverageEffects| {
        TokenRole::ALL.map(|role| {
            let [first, second] = average.effects(TracedState::Mlp, role) else { panic!() };
            assert_eq!(first, second);
            (first.count(), first.mean())
        })
    };
    let some = |n, mean| (n, Some(mean));
    let want = [some(1, 1.0), some(2, 2.5), some(1, 4.0), some(1, 5.0), some(2, 6.5), some(1, 8.0)];
    assert_eq!(means(&average), want);
    // A subject of one token that ends the prompt.
    average.add(&prompt(3, 2..3), &counting(3, 2));
    let want = [some(2, 1.5), some(2, 2.5), some(2, 3.0), some(1, 5.0), some(2, 6.5), some(2, 5.0)];
    assert_eq!(means(&average), want);
    assert_eq!((average.p_high.count(), average.p_low.mean()), (2, Some(0.25)));
    let mut numbers = RunningMean::default();
    [1.0, 2.0, 4.0].iter().for_each(|&x| numbers.add(x));
    assert!((numbers.error().unwrap() - (7.0f64 / 3.0 / 3.0).sqrt()).abs() < 1e-12);
    assert_eq!(RunningMean::default().mean(), None);
}

#[test]
fn layers_to_edit_are_the_middle_of_the_peak() {
    let propose = |profile: &[f64]| {
        EditLayers::propose(profile).map(|EditLayers { layer, layers }| (layer, layers))
    };
    assert_eq!(propose(&[0.0, 0.1, 0.5, 0.9, 1.0, 0.6, 0.2, 0.1]), Some((3, 1..6)));
    assert_eq!(propose(&[1.0, 0.2, 0.1, 0.0, 0.0, 0.0]), Some((0, 0..5)));
    assert_eq!(propose(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.3]), Some((5, 1..6)));
    assert_eq!(propose(&[0.1, 0.2]), Some((0, 0..2)));
    assert_eq!(propose(&[-0.1, 0.0]), None);
}

#[test]
fn a_heat_map_is_xml_whatever_the_tokens_are() {
    let labels = ["<a & b>\u{0}\n".to_owned(), "東京*".to_owned()];
    let values = [vec![Some(0.0), Some(0.5)], vec![None, Some(-1.0)]];
    let map =
        HeatMap { title: "p(\"x\") <", labels: &labels, values: &values, colour: [74, 20, 134] };
    let svg = map.svg().unwrap();
    for text in ["&lt;a &amp; b&gt;", "東京*", "0.500", "#4A1486", "layer"] {
        assert!(svg.contains(text), "{text}: {svg}");
    }
    assert!(!svg.contains('\u{0}'));
}
