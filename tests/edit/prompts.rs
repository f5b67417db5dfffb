use incise::edit::prompts::fact_rows;
use serde_json::json;

use crate::text::toys;

const CONTEXTS: [&str; 2] = ["{}", "The end. {}"];

#[test]
fn rows_are_the_prompts_followed_by_all_of_the_target_but_its_last_token() {
    for tok in [
        toys::byte_level(&["ĠNew", "ĠYork", "Paris", "ĠParis", "Ġis", "Ġa"]),
        toys::sentencepiece(&["▁New", "▁York", "▁Paris", "▁is", "▁a"]),
        toys::metaspace(&["▁New", "▁York", "▁Paris", "▁is", "▁a"]),
    ] {
        let target = tok.encode_target("New York").unwrap();
        assert_eq!(target.len(), 2);
        let rows = fact_rows(&tok, &CONTEXTS, "{} is a", "Paris", target.clone()).unwrap();
        let text = |ids: &[u32]| tok.decode(&ids[tok.bos.len()..]).unwrap();
        assert_eq!(text(&rows.rewriting[0].ids), "Paris is a New");
        assert_eq!(text(&rows.rewriting[1].ids), "The end. Paris is a New");
        assert_eq!(text(&rows.keys[1].ids), "The end. Paris is a");
        assert_eq!(rows.kl, rows.keys[0]);
        assert_eq!((&rows.target, rows.merged), (&target, 0));
        for (row, key) in rows.rewriting.iter().zip(&rows.keys) {
            assert!(row.ids.starts_with(&tok.bos));
            assert_eq!(row.lookup, key.lookup);
            assert_eq!(tok.token_text(row.ids[row.lookup]).trim(), "Paris");
        }
    }
}

#[test]
fn the_subject_is_looked_up_where_it_is_filled_in() {
    // The context and the target name it too, and the target even holds braces.
    let tok = toys::byte_level(&[]);
    let target = tok.encode_target("Paris {} Paris").unwrap();
    let rows = fact_rows(&tok, &["{}", "Paris. {}"], "In {} is", "Paris", target).unwrap();
    assert_eq!(rows.rewriting[0].lookup, "In Paris".len() - 1);
    assert_eq!(rows.rewriting[1].lookup, "Paris. In Paris".len() - 1);
}

#[test]
fn rows_that_do_not_end_in_the_targets_own_tokens_are_counted() {
    // The prompt ends in a space, and two spaces are one token.
    let tok = toys::sentencepiece(&["▁▁"]);
    let target = tok.encode_target("ab").unwrap();
    assert_eq!(target.len(), 3);
    let merged =
        |prompt: &str| fact_rows(&tok, &CONTEXTS, prompt, "x", target.clone()).unwrap().merged;
    assert_eq!((merged("{} is"), merged("{} is ")), (0, 2));
    // A cut inside a character cannot be decoded: the row takes the target's own tokens.
    let tok = toys::byte_level(&[]);
    let target = tok.encode_target("東").unwrap();
    let rows = fact_rows(&tok, &CONTEXTS, "{} is", "x", target.clone()).unwrap();
    let (_, said) = target.split_last().unwrap();
    assert_eq!(rows.rewriting[1].ids, [&rows.keys[1].ids, said].concat());
    assert_eq!(rows.merged, 0);
}

#[test]
fn what_cannot_make_rows_is_refused() {
    let tok = toys::byte_level(&[]);
    let target = || tok.encode_target("a").unwrap();
    let says = |error: incise::Error, words: &str| {
        assert!(error.to_string().contains(words), "{error}");
    };
    says(fact_rows(&tok, &CONTEXTS, "{} is", "x", vec![]).unwrap_err(), "no token");
    says(fact_rows(&tok, &[""; 0], "{} is", "x", target()).unwrap_err(), "no context");
    says(fact_rows(&tok, &["{} {}"], "{} is", "x", target()).unwrap_err(), "2 places");
    says(fact_rows(&tok, &["{}"], "is", "x", target()).unwrap_err(), "0 places");
    says(fact_rows(&tok, &["{}"], "{} is", " ", target()).unwrap_err(), "subject is empty");

    let mut json = toys::sentencepiece_json(&[]);
    let eos = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    json["post_processor"]["single"].as_array_mut().unwrap().push(eos);
    json["post_processor"]["special_tokens"]["</s>"] =
        json!({"id": "</s>", "ids": [2], "tokens": ["</s>"]});
    let tok = toys::build(&json);
    let target = tok.encode_target("a").unwrap();
    says(fact_rows(&tok, &CONTEXTS, "{} is", "x", target).unwrap_err(), "after every text");
}
