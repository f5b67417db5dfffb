use incise::data::Contexts;
use proptest::prelude::*;
use serde_json::json;

use crate::support::shared::shared;

#[test]
fn groups_are_read_flattened_and_given_back() {
    let json = json!([["{}"], ["The end. {}", "東京 {}"]]);
    let contexts = Contexts::parse("c.json", json.to_string().as_bytes()).unwrap();
    assert_eq!(contexts.flat(), ["{}", "The end. {}", "東京 {}"]);
    assert_eq!(contexts.groups().len(), 2);
    assert_eq!(contexts.to_json(), json);
    assert_eq!(Contexts::bare().to_json(), json!([["{}"]]));
    let marked = format!("\u{feff}{json}\r\n");
    assert_eq!(Contexts::parse("c.json", marked.as_bytes()).unwrap(), contexts);
}

#[test]
fn errors_name_file_group_and_context() {
    for (text, words) in [
        (r#"[["{}"], ["a {}", "b"]]"#, "c.json: group 1, context 1: \"b\" has 0 places {}"),
        (r#"[["{}", "{} {}"]]"#, "group 0, context 1"),
        (r#"[["{}"], []]"#, "group 1: is empty"),
        (r#"[["a. {}"], ["{}"]]"#, "group 0, context 0: is not the bare"),
        (r#"[[], ["{}"]]"#, "group 0, context 0"),
        ("[]", "group 0, context 0"),
        (r#"["{}"]"#, "line 1: is not a JSON list of lists"),
        ("[[\n7]]", "line 2"),
        ("", "c.json: line 1"),
    ] {
        let error = Contexts::parse("c.json", text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
    let error = Contexts::read("/no/such/file").unwrap_err().to_string();
    assert!(error.contains("/no/such/file: cannot read"), "{error}");
}

#[test]
fn the_pinned_contexts_of_a_real_model_are_read() {
    let Some(path) =
        shared("the_pinned_contexts_of_a_real_model_are_read", "factlm-gpt2/contexts.json")
    else {
        return;
    };
    let contexts = Contexts::read(path).unwrap();
    assert_eq!(contexts.groups().iter().map(Vec::len).collect::<Vec<_>>(), [1, 5]);
}

proptest! {
    /// Nothing panics; what is accepted has one place in each context and is read back.
    #[test]
    fn any_json(pieces in prop::collection::vec(prop::sample::select(vec![
        "[", "]", ",", "[[\"{}\"]", "\"{}\"", "\"a. {}\"", "\"{} {}\"", "7", "null", "\\", "é",
    ]), 0..12)) {
        if let Ok(contexts) = Contexts::parse("x", pieces.concat().as_bytes()) {
            let places = |context: &&str| context.matches("{}").count();
            prop_assert!(contexts.flat().iter().map(places).all(|n| n == 1));
            let again = contexts.to_json().to_string();
            prop_assert_eq!(Contexts::parse("x", again.as_bytes()).unwrap(), contexts);
        }
    }
}
