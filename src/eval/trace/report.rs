//! What tracing found: as JSON (docs/trace.md has the fields), as heat maps and in words.

use serde_json::{Map, Value, json};

use super::average::{AverageEffects, EditLayers, RunningMean, TokenRole};
use super::heat_map::HeatMap;
use super::noise::NoiseLevel;
use super::protocol::{CausalTrace, TraceSettings, TracedPrompt};
use super::restore::TracedState;
use crate::base::Result;
use crate::base::units::counted;
use crate::data::KnownFact;
use crate::text::Tokenizer;

/// How facts were traced.
pub struct TraceSetup<'a> {
    /// The model's fingerprint.
    pub model: String,
    /// As it was asked for.
    pub noise: NoiseLevel,
    /// As it ran.
    pub protocol: TraceSettings,
    /// Of the model.
    pub tokenizer: &'a Tokenizer,
}

/// What became of a file's facts.
#[derive(Clone, Copy)]
pub struct TraceCounts {
    /// Traced.
    pub facts: usize,
    /// The model says something else.
    pub skipped: usize,
    /// They could not be run.
    pub refused: usize,
}

/// A file's name, and the heat map in it.
pub type Drawing = (&'static str, String);

impl TraceSetup<'_> {
    fn json(&self) -> Value {
        let TraceSettings { samples, window, nu, seed } = self.protocol;
        let noise = json!({"level": self.noise.to_string(), "nu": nu, "seed": seed});
        json!({"model": self.model, "samples": samples, "window": window, "noise": noise})
    }

    fn texts(&self, ids: &[u32]) -> Vec<String> {
        ids.iter().map(|&id| self.tokenizer.token_text(id)).collect()
    }
}

/// One fact, in full.
pub fn fact_json(
    by: &TraceSetup,
    fact: &KnownFact,
    prompt: &TracedPrompt,
    trace: &CausalTrace,
) -> Value {
    let kinds = TracedState::ALL.iter().zip(&trace.ie);
    let ie: Map<_, _> = kinds.map(|(state, ie)| (state.name().to_owned(), json!(ie))).collect();
    let answer = json!({"id": trace.answer, "text": by.tokenizer.token_text(trace.answer)});
    let own = json!({
        "id": fact.id, "prompt": fact.prompt, "subject": fact.subject,
        "tokens": by.texts(&prompt.ids),
        "subject_tokens": [prompt.subject.start, prompt.subject.end],
        "answer": answer, "p_high": trace.p_high, "p_low": trace.p_low, "te": trace.total(),
        "ie": ie,
    });
    joined(by.json(), own)
}

/// The averages of many facts.
pub fn average_json(by: &TraceSetup, counts: TraceCounts, average: &AverageEffects) -> Value {
    let layers = |of: &[RunningMean]| {
        let [mean, error]: [Vec<Option<f64>>; 2] =
            [RunningMean::mean, RunningMean::error].map(|f| of.iter().map(f).collect());
        let n = of.first().map_or(0, RunningMean::count);
        json!({"n": n, "mean": mean, "standard_error": error})
    };
    let roles = |state| -> Map<_, _> {
        let role = |role: TokenRole| (role.name().into(), layers(average.effects(state, role)));
        TokenRole::ALL.map(role).into_iter().collect()
    };
    let kind = |state: TracedState| (state.name().to_owned(), Value::Object(roles(state)));
    let aie: Map<_, _> = TracedState::ALL.map(kind).into_iter().collect();
    let proposal = average.edit_layers().map(|EditLayers { layer, layers }| {
        let layers: Vec<usize> = layers.collect();
        let (rule, source) = (EditLayers::RULE, EditLayers::SOURCE);
        json!({"layer": layer, "layers": layers, "rule": rule, "source": source})
    });
    let [p_high, p_low] = [average.p_high, average.p_low].map(|p| p.mean().unwrap_or_default());
    let TraceCounts { facts, skipped, refused } = counts;
    let own = json!({
        "facts": facts, "skipped": skipped, "refused": refused,
        "p_high": p_high, "p_low": p_low, "te": p_high - p_low,
        "aie": aie, "edit_layers": proposal,
    });
    joined(by.json(), own)
}

/// With the seconds of the tracing, which are no part of what is kept.
pub fn timed(found: Value, seconds: f64) -> Value {
    joined(found, json!({"seconds": seconds}))
}

fn joined(mut a: Value, b: Value) -> Value {
    if let (Value::Object(a), Value::Object(b)) = (&mut a, b) {
        a.extend(b);
    }
    a
}

const COLOURS: [[u8; 3]; 3] = [[74, 20, 134], [0, 90, 50], [165, 15, 21]];
const FILES: [&str; 3] = ["hidden.svg", "mlp.svg", "attention.svg"];
const TITLES: [&str; 3] =
    ["restoring a single state", "restoring MLP outputs", "restoring attention outputs"];

/// The heat maps of one fact. A star marks the subject's tokens.
pub fn fact_maps(
    by: &TraceSetup,
    prompt: &TracedPrompt,
    trace: &CausalTrace,
) -> Result<Vec<Drawing>> {
    let star = |(i, text): (usize, String)| match prompt.subject.contains(&i) {
        true => format!("{text}*"),
        false => text,
    };
    let labels: Vec<String> = by.texts(&prompt.ids).into_iter().enumerate().map(star).collect();
    let answer = by.tokenizer.token_text(trace.answer);
    let of = |kind: usize| {
        let values: Vec<Vec<Option<f64>>> =
            trace.ie[kind].iter().map(|row| row.iter().copied().map(Some).collect()).collect();
        let title = format!("Effect on p({answer}) of {}", TITLES[kind]);
        map(kind, &title, &labels, &values)
    };
    (0..3).map(of).collect()
}

/// The heat maps of many facts.
pub fn average_maps(average: &AverageEffects) -> Result<Vec<Drawing>> {
    let labels = TokenRole::ALL.map(|role| role.title().to_owned());
    let of = |kind: usize| {
        let row = |role| -> Vec<Option<f64>> {
            average.effects(TracedState::ALL[kind], role).iter().map(RunningMean::mean).collect()
        };
        let title = format!("Average effect of {}, {} facts", TITLES[kind], average.p_high.count());
        map(kind, &title, &labels, &TokenRole::ALL.map(row))
    };
    (0..3).map(of).collect()
}

fn map(
    kind: usize,
    title: &str,
    labels: &[String],
    values: &[Vec<Option<f64>>],
) -> Result<Drawing> {
    let svg = HeatMap { title, labels, values, colour: COLOURS[kind] }.svg()?;
    Ok((FILES[kind], svg))
}

/// One fact in words.
pub fn fact_lines(by: &TraceSetup, prompt: &TracedPrompt, trace: &CausalTrace) -> Vec<String> {
    let texts = by.texts(&prompt.ids);
    let answer = by.tokenizer.token_text(trace.answer);
    let first = format!("{:?} follows: {}", answer, probabilities(by, trace.p_high, trace.p_low));
    let strongest = |(state, ie): (&TracedState, &Vec<Vec<f64>>)| {
        let cells = ie
            .iter()
            .enumerate()
            .flat_map(|(i, row)| row.iter().enumerate().map(move |(l, &ie)| (ie, i, l)));
        let (ie, i, l) = cells.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default();
        let token = &texts[i];
        format!("{:9}  {ie:+.3} at most, at layer {l} of token {i} {token:?}", state.name())
    };
    std::iter::once(first).chain(TracedState::ALL.iter().zip(&trace.ie).map(strongest)).collect()
}

/// Averages in words.
pub fn average_lines(
    by: &TraceSetup,
    counts: TraceCounts,
    average: &AverageEffects,
) -> Vec<String> {
    let TraceCounts { facts, skipped, refused } = counts;
    let [p_high, p_low] = [average.p_high, average.p_low].map(|p| p.mean().unwrap_or_default());
    let mut lines = vec![format!(
        "{} traced, {skipped} that the model does not say, {refused} left out: {}",
        counted(facts as u64, "fact"),
        probabilities(by, p_high, p_low)
    )];
    for state in TracedState::ALL {
        let cells = TokenRole::ALL.into_iter().flat_map(|role| {
            let layers = average.effects(state, role).iter().enumerate();
            layers.filter_map(move |(l, ie)| Some((ie.mean()?, l, role.title())))
        });
        let (ie, l, role) = cells.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default();
        lines.push(format!("{:9}  {ie:+.3} at most, at layer {l} of the {role}", state.name()));
    }
    lines.push(match average.edit_layers() {
        Some(EditLayers { layer, layers }) => format!(
            "to edit: layer {layer}, or {} to {}: {}",
            layers.start,
            layers.end - 1,
            EditLayers::RULE
        ),
        None => "to edit: no layer's MLP has an effect at the subject's last token".to_owned(),
    });
    lines
}

fn probabilities(by: &TraceSetup, p_high: f64, p_low: f64) -> String {
    let TraceSettings { samples, nu, .. } = by.protocol;
    format!(
        "p {p_high:.3}, and {p_low:.3} with the subject corrupted ({samples} copies, noise \
         {nu:.4}): total effect {:.3}",
        p_high - p_low
    )
}
