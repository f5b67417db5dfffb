//! A model's texts: logits of one, statistics from some.

use std::fs;

use incise::Error;
use incise::editor::statistics::Gathering;
use incise::editor::text_model::Generation;
use incise::model::generate::Sampling;
use incise::stats::Input;
use incise::tensor::Device;

use super::Copy;

const PROMPT: &str = "Louis Armstrong played the";

#[test]
fn logits_say_what_generating_says() {
    let copy = Copy::new();
    let model = copy.editor(&Device::Cpu).model();
    let logits = model.logits(PROMPT, &|| true).unwrap();
    let (n, v) = (logits.tokens.len(), logits.vocabulary);
    assert_eq!(logits.values.len(), n * v);
    let last = &logits.values[(n - 1) * v..];
    let likeliest = (0..v).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
    let said = model.generate_with(PROMPT, &Generation::greedy(1), &mut |_| Ok(true)).unwrap();
    assert_eq!([said.prompt_tokens, said.tokens], [logits.tokens, vec![likeliest as u32]]);
    let stopped = model.logits(PROMPT, &|| false).unwrap_err();
    assert!(matches!(stopped, Error::Interrupted { .. }), "{stopped}");
}

#[test]
fn a_choice_that_is_none_is_refused() {
    let copy = Copy::new();
    let model = copy.editor(&Device::Cpu).model();
    let refused = |temperature, top_k, top_p| {
        let sampling = Sampling { temperature, top_k, top_p };
        let how = Generation { sampling, ..Generation::greedy(1) };
        model.generate_with(PROMPT, &how, &mut |_| Ok(true)).is_err()
    };
    assert!(!refused(0.0, 0, 1.0) && !refused(0.5, 2, 0.5));
    for (temperature, top_k, top_p) in
        [(-1.0, 0, 1.0), (f64::NAN, 0, 1.0), (1.0, 0, 0.0), (1.0, 0, 1.1), (0.0, 2, 1.0)]
    {
        assert!(refused(temperature, top_k, top_p), "{temperature} {top_k} {top_p}");
    }
}

#[test]
fn statistics_of_several_inputs_are_collected_in_one_pass() {
    let copy = Copy::new();
    let (corpus, dir) = (copy.beside("text.txt"), copy.beside("stats"));
    fs::write(&corpus, format!("{PROMPT} trumpet.\n").repeat(20)).unwrap();
    let editor = copy.editor(&Device::Cpu);
    let what = Gathering {
        layers: vec![1, 0, 1],
        inputs: vec![Input::MlpInput, Input::Key],
        max_tokens: Some(50),
        ..Gathering::default()
    };
    let done = editor.collect_statistics(&[&corpus], &what, &dir).unwrap();
    assert_eq!((done.tokens, done.origin.model), (50, editor.fingerprint().to_owned()));
    let names: Vec<String> = done.inputs.iter().map(|input| input.name()).collect();
    assert_eq!(names, ["0", "0.mlp-input", "1", "1.mlp-input"]);
    assert!(names.iter().all(|name| dir.join(format!("layer-{name}.safetensors")).exists()));
    for wrong in [
        Gathering { layers: vec![], ..what.clone() },
        Gathering { layers: vec![6], ..what.clone() },
        Gathering { context_length: Some(0), ..what.clone() },
        Gathering { max_tokens: Some(49), ..what },
    ] {
        assert!(editor.collect_statistics(&[&corpus], &wrong, &dir).is_err(), "{wrong:?}");
    }
}
