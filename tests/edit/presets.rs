//! Rows of presets that variants of methods have, and matrices of one layer each.

use incise::edit::methods::find;
use incise::edit::presets;
use incise::model::{Matrix, MatrixId};
use serde_json::Value;

use super::hparams::{model, yaml};

/// Variants have rows of their own, and where they have none the numbers of the method they vary.
#[test]
fn variants_have_rows_of_their_own() {
    let number = |method: &str, model: &str, name: &str| {
        let rows = presets::all(find(method).unwrap());
        let row = rows.into_iter().find(|row| row.model == model).unwrap();
        row.values.get(name).and_then(Value::as_f64)
    };
    assert_eq!(number("encore", "gpt2-xl", "update_norm_lambda"), Some(10.0));
    assert_eq!(number("encore", "llama-2-7b", "early_stop"), Some(3.0));
    assert_eq!(number("encore", "llama-3-8b", "v_lr"), Some(0.5));
    assert_eq!(number("memit", "llama-3-8b", "v_lr"), Some(0.1));
    assert_eq!(number("encore", "gpt-j-6b", "mom2_update_weight"), Some(15000.0));
    assert_eq!(number("betaedit", "llama-3.2-3b", "L2"), Some(10.0));
    assert_eq!(number("betaedit", "qwen2-7b", "L2"), Some(10.0));
    assert_eq!(number("alphaedit", "qwen2-7b", "L2"), Some(1.0));
    assert_eq!(number("betaedit", "gpt2-xl", "clamp_norm_factor"), Some(0.75));
}

/// Matrices of one layer each, as UltraEdit's authors have them for Llama-3-8B.
#[test]
fn matrices_may_be_of_one_layer_each() {
    let edited = |text: &str| {
        let mut values = yaml(text)?;
        let method = find("ultraedit").unwrap();
        values.fill(method);
        let by = values.resolve(method, &model())?;
        Ok((by.edited(), method.state_settings(&by)))
    };
    let edited = |text: &str| -> incise::Result<_> { edited(text) };
    let (ids, settings) = edited("layers: [0, 1]\nmatrices: [1.down, 0.up, 1.up, 0.up]").unwrap();
    let [up, down] = [Matrix::Up, Matrix::Down];
    assert_eq!(ids, [MatrixId::new(0, up), MatrixId::new(1, up), MatrixId::new(1, down)]);
    assert!(settings.contains("layers.1.down"), "{settings}");
    let (_, settings) = edited("layers: [0, 1]\nmatrices: [0.up, 1.up]").unwrap();
    assert_eq!(settings, edited("layers: [0, 1]\nmatrices: [up]").unwrap().1);
    for text in ["[0.up, down]", "[0.up]", "[0.up, 1.gate]", "[0.up, 2.up]", "[x.up]", "[0.1.up]"] {
        let error = edited(&format!("layers: [0, 1]\nmatrices: {text}")).unwrap_err();
        assert_eq!(error.field(), Some("matrices"), "{text}: {error}");
    }
    let all = presets::all(find("ultraedit").unwrap());
    let row = all.into_iter().find(|row| row.model == "llama-3-8b").unwrap();
    assert_eq!(row.values["matrices"].as_array().unwrap().len(), 12);
    assert_eq!(row.values["matrices"][0], "11.gate");
}
