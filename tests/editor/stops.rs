//! Which tokens end a text: what `generation_config.json` says, and else `config.json`.

use std::fs;

use incise::Editor;
use incise::editor::text_model::Generation;
use serde_json::{Value, json};

use super::Copy;

/// The tokens of a text after a prompt, with files of the folder changed.
fn generated(files: &[(&str, &str)], config: &Value) -> Result<Vec<u32>, String> {
    let copy = Copy::new();
    let path = copy.dir().join("config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    value["eos_token_id"] = config.clone();
    fs::write(path, value.to_string()).unwrap();
    for (name, text) in files {
        fs::write(copy.dir().join(name), text).unwrap();
    }
    let model = Editor::open(copy.dir()).map_err(|e| e.to_string())?.model();
    let said = model.generate_with("The", &Generation::greedy(6), &mut |_| Ok(true));
    said.map(|said| said.tokens).map_err(|e| e.to_string())
}

#[test]
fn a_text_ends_as_generation_config_says_or_else_config() {
    let all = generated(&[], &Value::Null).unwrap();
    assert_eq!(all.len(), 6, "no file says how a text ends");
    let at = |id: u32| all.iter().position(|&other| other == id).unwrap();
    let (first, later) = (all[0], *all.iter().find(|&&id| id != all[0]).unwrap());
    let length = |text: String, config: &Value| {
        let said = generated(&[("generation_config.json", &text)], config).unwrap();
        assert!(all.starts_with(&said));
        said.len()
    };
    let ends = [at(first), at(first) + 1];
    let long = [at(later), at(later) + 1];
    let (none, other) = (Value::Null, json!(first));
    let said = |config: &Value| generated(&[], config).unwrap().len();
    assert!(ends.contains(&said(&other)) && ends.contains(&said(&json!([99_999, first]))));
    for eos in [json!(later), json!([later]), json!([99_999, later])] {
        let text = || json!({"eos_token_id": eos}).to_string();
        assert!(long.contains(&length(text(), &none)), "{eos}");
        assert!(long.contains(&length(text(), &other)), "{eos}: it comes before config.json");
    }
    for text in ["{}", r#"{"eos_token_id": null}"#] {
        assert!(ends.contains(&length(text.into(), &other)), "{text} says nothing");
    }
}

#[test]
fn a_broken_generation_config_is_named() {
    for (text, words) in [
        ("{", "generation_config.json: JSON"),
        (
            r#"{"eos_token_id": "2"}"#,
            "generation_config.json: eos_token_id: \"2\" is no token's id",
        ),
        (r#"{"eos_token_id": [2, -1]}"#, "-1 is no token's id"),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ] {
        let error = generated(&[("generation_config.json", text)], &json!(2)).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}
