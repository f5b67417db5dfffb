use incise::edit::prompts::{FactRows, FactToken, fact_rows, framed_rows};
use incise::text::{Frame, Tokenizer};
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
        let target = tok.encode_target("is", "New York", None).unwrap();
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
    let target = tok.encode_target("is", "Paris {} Paris", None).unwrap();
    let rows = fact_rows(&tok, &["{}", "Paris. {}"], "In {} is", "Paris", target).unwrap();
    assert_eq!(rows.rewriting[0].lookup, "In Paris".len() - 1);
    assert_eq!(rows.rewriting[1].lookup, "Paris. In Paris".len() - 1);
}

#[test]
fn rows_that_do_not_end_in_the_targets_own_tokens_are_counted() {
    // The prompt ends in a space, and two spaces are one token.
    let tok = toys::sentencepiece(&["▁▁"]);
    let target = tok.encode_target("is", "ab", None).unwrap();
    assert_eq!(target.len(), 3);
    let merged =
        |prompt: &str| fact_rows(&tok, &CONTEXTS, prompt, "x", target.clone()).unwrap().merged;
    assert_eq!((merged("{} is"), merged("{} is ")), (0, 2));
    // A cut inside a character cannot be decoded: the row takes the target's own tokens.
    let tok = toys::byte_level(&[]);
    let target = tok.encode_target("is", "東", None).unwrap();
    let rows = fact_rows(&tok, &CONTEXTS, "{} is", "x", target.clone()).unwrap();
    let (_, said) = target.split_last().unwrap();
    assert_eq!(rows.rewriting[1].ids, [&rows.keys[1].ids, said].concat());
    assert_eq!(rows.merged, 0);
}

/// The rows of a prompt about `x`, the target's tokens as text, and whether they follow the
/// prompt's own as the whole text has them.
fn seam(tok: &Tokenizer, prompt: &str, target: &str, space: Option<bool>) -> (Vec<String>, bool) {
    let filled = prompt.replace("{}", "x");
    let ids = tok.encode_target(&filled, target, space).unwrap();
    let rows = fact_rows(tok, &CONTEXTS, prompt, "x", ids).unwrap();
    (rows.target.iter().map(|&id| tok.token_text(id)).collect(), rows.merged == 0)
}

fn texts(tokens: &[&str]) -> Vec<String> {
    tokens.iter().map(|&token| token.to_owned()).collect()
}

#[test]
fn targets_are_tokenised_as_they_stand_behind_their_prompt() {
    let byte = toys::byte_level(&["ĠRome", "Rome", "Ġ\"", "Ġis", "ĠĠ"]);
    let piece = toys::sentencepiece(&["▁Rome", "Rome", "▁is"]);
    for (tok, prompt, target, tokens) in [
        (&byte, "the capital of {} is", "Rome", &[" Rome"][..]),
        (&byte, "capital({}) == \"", "Rome", &["Rome"]),
        (&byte, "{}的首都是", "Rome", &["Rome"]),
        (&byte, "{} is\n", "Rome", &["Rome"]),
        (&byte, "{}?\nA:", "\nRome", &["\n", "Rome"]),
        (&byte, "{} (", "Rome", &["Rome"]),
        (&piece, "the capital of {} is", "Rome", &[" Rome"]),
        (&piece, "{} (", "Rome", &["Rome"]),
        (&piece, "{} is\n", "Rome", &["Rome"]),
        (&piece, "{}的首都是", "Rome", &["Rome"]),
    ] {
        let (got, follows) = seam(tok, prompt, target, None);
        assert_eq!(got, texts(tokens), "{prompt:?}");
        assert!(follows, "{prompt:?}");
    }
    assert_eq!(seam(&byte, "{} is", "Rome", Some(false)), (vec!["Rome".into()], true));
    assert_eq!(seam(&byte, "{} (", "Rome", Some(true)), (vec![" Rome".into()], true));
}

/// The prompt's last token would be another one in the whole text. One-token targets show it in no
/// row of the search.
#[test]
fn a_seam_inside_a_token_is_counted_and_the_targets_own_tokens_follow() {
    let byte = toys::byte_level(&["ĠRome", "Rome", "Ġis"]);
    let piece = toys::sentencepiece(&["'R", "▁Rome", "Rome", "▁is"]);
    for (tok, prompt) in
        [(&byte, "the capital of {} is "), (&piece, "{} is "), (&piece, "the name of {} is '")]
    {
        let got = seam(tok, prompt, "Rome", None);
        assert_eq!(got, (vec!["Rome".to_owned()], false), "{prompt:?}");
    }
    let frame = Frame { head: "U: ".into(), tail: "\nA: ".into() };
    let ids = byte.encode_after(&frame.tail, "Rome").unwrap();
    let asked = ("{} is", "x", FactToken::SubjectLast);
    let rows = framed_rows(&byte, Some(&frame), &CONTEXTS, asked, ids).unwrap();
    assert_eq!(rows.merged, 1, "a chat's answer begins inside a token too");
}

#[test]
fn the_prompts_last_token_is_looked_up_where_it_is_asked_for() {
    let tok = toys::byte_level(&["ĠRome", "Ġis", "Ġa", "Ġof"]);
    let frame = Frame { head: "U: ".into(), tail: "\nA:".into() };
    for (frame, prompt, subject) in [
        (None, "the capital of {} is", "x"),
        (None, "{}", "the capital of x is"),
        (Some(&frame), "the capital of {} is", "x"),
    ] {
        let target = tok.encode_target("is", "Rome of", None).unwrap();
        let asked = (prompt, subject, FactToken::Last);
        let rows = framed_rows(&tok, frame, &CONTEXTS, asked, target).unwrap();
        let FactRows { rewriting, keys, kl, .. } = &rows;
        for row in rewriting.iter().chain(keys) {
            assert_eq!(tok.token_text(row.ids[row.lookup]), " is");
            let read = tok.decode(row.up_to_lookup()).unwrap();
            assert!(read.ends_with("the capital of x is"), "{read:?}");
        }
        if frame.is_none() {
            assert_eq!(keys[1].lookup + 1, keys[1].ids.len());
        }
        assert_eq!(rewriting[0].lookup, keys[0].lookup);
        // The KL row is held where it ends.
        let read = tok.decode(kl.up_to_lookup()).unwrap();
        assert!(read.ends_with(&format!("{subject} is a")), "{read:?}");
    }
}

#[test]
fn what_cannot_make_rows_is_refused() {
    let tok = toys::byte_level(&[]);
    let target = || tok.encode_target("is", "a", None).unwrap();
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
    let target = tok.encode_target("is", "a", None).unwrap();
    says(fact_rows(&tok, &CONTEXTS, "{} is", "x", target).unwrap_err(), "after every text");
}
