//! Settings by name, and an edit as one document.

use incise::Error;
use incise::editor::options::OPTIONS;
use incise::tensor::Device;
use serde_json::{Value, json};

use super::Copy;

#[test]
fn every_option_is_known_and_no_other() {
    let editor = Copy::new().editor(&Device::Cpu);
    for name in OPTIONS {
        assert!(editor.clone().option(name, &Value::Null).is_ok(), "{name}: null leaves it");
        // No setting is a list of numbers.
        let Err(Error::Input { field, what, .. }) = editor.clone().option(name, &json!([1.5]))
        else {
            panic!("{name} takes anything");
        };
        assert!(field == name && what.starts_with("is not "), "{name}: {what}");
    }
    for name in ["", "Method", "statistics", "v_lr", "requests"] {
        let Err(Error::Input { field, what, remedy, .. }) =
            editor.clone().option(name, &Value::Null)
        else {
            panic!("{name} is no option");
        };
        assert_eq!((&*field, &*what), (name, "is no setting"));
        assert!(remedy.text.contains("memory"), "{remedy}");
    }
}

#[test]
fn a_document_is_the_same_edit() {
    let copy = Copy::new();
    let editor = copy.editor(&Device::Cpu);
    let record =
        json!({"prompt": "{} played the", "subject": "Louis Armstrong", "target_new": "violin"});
    let patch = |document: &Value| -> incise::Result<Vec<u8>> {
        let edit = editor.prepare_json("document", document.to_string().as_bytes())?.plan()?;
        edit.patch()?.to_bytes()
    };
    let hyperparameters = json!({"v_num_grad_steps": 3, "v_lr": 0.4});
    let by_name = patch(&json!({
        "requests": [record], "method": "r-rome", "hyperparameters": hyperparameters, "seed": 7,
    }));
    let set = |name: &str, value: Value| editor.clone().set(name, value);
    let typed =
        set("v_num_grad_steps", json!(3)).and_then(|editor| editor.set("v_lr", 0.4)).unwrap();
    let fact = incise::Fact::new("{} played the", "Louis Armstrong", "violin");
    let edit = typed.method("r-rome").unwrap().seed(7).plan(&[fact]).unwrap();
    let file = copy.beside("typed.patch");
    edit.write(&file).unwrap();
    assert!(by_name.unwrap() == std::fs::read(file).unwrap());
    let error = patch(&json!({"method": "r-rome"})).unwrap_err();
    assert_eq!((error.field(), error.code()), (Some("requests"), "input"));
    let error = editor.prepare_json("document", b"[1]").err().unwrap();
    assert_eq!((error.file().unwrap().to_str(), error.field()), (Some("document"), Some("JSON")));
}
