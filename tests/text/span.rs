use incise::text::{Tokenizer, subject_token};
use proptest::prelude::*;
use serde_json::json;

use super::toys;
use crate::support::shared::shared;

/// The text of the subject's last token, and the text of all tokens up to and with it.
fn last(tok: &Tokenizer, template: &str, subject: &str) -> (String, String) {
    let filled = subject_token(tok, template, subject).unwrap();
    let upto = &filled.ids[tok.bos.len()..=filled.subject_last];
    (tok.token_text(filled.ids[filled.subject_last]), tok.decode_after(upto).unwrap())
}

/// Template, subject, and the text that ends with the subject's last token.
const CASES: &[(&str, &str, &str)] = &[
    ("{} is a city", "Paris", "Paris"),
    ("The city of {} is", "Paris", "The city of Paris"),
    ("Paris is big. {} is big. Paris", "Paris", "Paris is big. Paris"),
    ("{}, created by", "Paris", "Paris"),
    ("{}'s owner is", "Paris", "Paris"),
    ("I like {}", "Paris", "I like Paris"),
    ("I like {} ", "Paris", "I like Paris"),
    ("Of {} is", "new york", "Of new york"),
    ("{} is", "Zoé", "Zoé"),
    ("The city of {} is", "東京", "The city of 東京"),
    ("{}、", "東京", "東京"),
    ("{} is", "🦀", "🦀"),
];

#[test]
fn the_last_token_of_the_subject_is_found() {
    let toys = [
        ("byte level", toys::byte_level(&["Paris", "ĠParis", "Ġcity", "Ġis", "Ġyork", "ĠæĿ"])),
        ("sentencepiece", toys::sentencepiece(&["▁Paris", "▁city", "▁is", "▁york"])),
        ("metaspace", toys::metaspace(&["▁Paris", "▁city", "▁is", "▁york"])),
    ];
    for (name, tok) in toys {
        for &(template, subject, want) in CASES {
            // A decoded text begins with the space that some kinds put before it.
            let (_, upto) = last(&tok, template, subject);
            assert_eq!(upto.trim_start(), want, "{name}: {template:?}, {subject:?}");
        }
    }
}

#[test]
fn white_space_around_the_subject_is_not_part_of_it() {
    let tok = toys::byte_level(&["ĠParis", "Ġis"]);
    // "{}is": the trailing space belongs to the next word's token.
    assert_eq!(last(&tok, "In {}is", " Paris "), (" Paris".into(), "In  Paris".into()));
}

#[test]
fn a_token_that_crosses_the_end_of_the_subject_is_its_last() {
    let tok = toys::byte_level(&["Ġdogs"]);
    assert_eq!(last(&tok, "Two {}s", "dog").0, " dogs");
}

#[test]
fn tokens_that_share_a_character_both_belong_to_it() {
    // 東 is æ Ŀ ± and 京 is ä º ¬; one token holds the end of the first and the start of the second.
    let tok = toys::byte_level(&["æĿ", "±äº"]);
    let filled = subject_token(&tok, "{}x", "東").unwrap();
    assert_eq!(tok.encode("東x").unwrap().len(), 3);
    assert_eq!(filled.subject_last, 1);
    // The first character's last token is the one that also begins the second.
    assert_eq!(subject_token(&tok, "{}京", "東").unwrap().subject_last, 1);
    assert_eq!(subject_token(&tok, "東{}", "京").unwrap().subject_last, 2);
    let spans = tok.encode_spans("東京").unwrap().spans;
    assert_eq!(spans, [(0, 3), (0, 6), (3, 6)]);
}

#[test]
fn the_beginning_of_sequence_shifts_the_index() {
    let tok = toys::sentencepiece(&["▁Paris"]);
    let filled = subject_token(&tok, "{} is", "Paris").unwrap();
    assert_eq!((filled.ids[0], filled.subject_last), (1, 1));
}

#[test]
fn a_space_put_in_after_a_special_token_shifts_no_span() {
    let mut json = toys::byte_level_json(&["Ġx"]);
    for part in ["pre_tokenizer", "post_processor"] {
        json[part]["add_prefix_space"] = true.into();
    }
    let filled = subject_token(&toys::build(&json), "<|endoftext|>{} is", "x").unwrap();
    assert_eq!(filled.subject_last, 1);
}

#[test]
fn normalisers_that_change_lengths_shift_no_span() {
    let with = |normalizer| {
        let mut json = toys::byte_level_json(&["Ġis"]);
        json["normalizer"] = normalizer;
        toys::build(&json)
    };
    for form in ["NFC", "NFD", "NFKC", "NFKD"] {
        let tok = with(json!({"type": form}));
        for subject in ["Zoe\u{301}", "Zoé", "ﬁﬀ", "ẛ̣"] {
            let before = tok.encode(&format!("ée\u{301} {subject}")).unwrap();
            let filled = subject_token(&tok, "ée\u{301} {} is é", subject).unwrap();
            assert_eq!(filled.subject_last + 1, before.len(), "{form}: {subject}");
        }
    }
    let tok = with(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
    assert_eq!(subject_token(&tok, "  {} is ", "abc").unwrap().subject_last, 2);
}

#[test]
fn what_has_no_last_token_is_refused_by_name() {
    let mut json = toys::byte_level_json(&[]);
    json["normalizer"] =
        json!({"type": "Replace", "pattern": {"String": "\u{200b}"}, "content": ""});
    let tok = toys::build(&json);
    for (template, subject, says) in [
        ("{} is", "", "the subject is empty"),
        ("{} is", " \n", "the subject is empty"),
        ("{} is", "\u{200b}", "leaves nothing of the subject \"\\u{200b}\""),
        ("a{}b", "\u{200b}\u{200b}", "leaves nothing of the subject"),
        ("nothing", "a", "has 0 places {}"),
        ("{} and {}", "a", "has 2 places {}"),
    ] {
        let error = subject_token(&tok, template, subject).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn braces_in_the_subject_are_text() {
    let tok = toys::byte_level(&[]);
    assert_eq!(last(&tok, "a {} b", "{}c").1, "a {}c");
}

/// In byte-level BPE a token stands for as many bytes as its piece has letters, so the subject's
/// last byte says which token is wanted, without spans.
fn by_bytes(tok: &Tokenizer, pieces: &[u32], before: &str, subject: &str) -> usize {
    let target = before.len() + subject.trim_end().len();
    let mut end = 0;
    for (i, &id) in pieces.iter().enumerate() {
        end += tok.piece(id).unwrap().chars().count();
        if end >= target {
            return i;
        }
    }
    unreachable!("the tokens are shorter than the text")
}

proptest! {
    #[test]
    fn spans_agree_with_byte_counts(
        before in "[a東é京🦀 ]{0,6}", subject in "[a東é京🦀]([a東é京🦀 ]{0,4}[a東é京🦀])?",
        after in "[a東é京🦀 ,]{0,6}",
    ) {
        let tok = toys::byte_level(&["Ġa", "æĿ", "±ä", "º¬æ", "ĠÃ", "©æ", "©ð", "ŁĢ"]);
        let filled = subject_token(&tok, &format!("{before}{{}}{after}"), &subject).unwrap();
        prop_assert_eq!(filled.subject_last, by_bytes(&tok, &filled.ids, &before, &subject));
    }
}

#[test]
fn the_rule_holds_on_every_counterfact_prompt_with_gpt2() {
    const NAME: &str = "the_rule_holds_on_every_counterfact_prompt_with_gpt2";
    let (Some(dir), Some(cases)) =
        (shared(NAME, "gpt2_tokenizer"), shared(NAME, "counterfact/counterfact-1200.json"))
    else {
        return;
    };
    let tok = Tokenizer::open(dir).unwrap();
    for request in incise::data::request::read(cases).unwrap() {
        let template = format!("The first time. {}", request.prompt);
        let filled = subject_token(&tok, &template, &request.subject).unwrap();
        let before = template.split_once("{}").unwrap().0;
        let want = by_bytes(&tok, &filled.ids, before, &request.subject);
        assert_eq!(filled.subject_last, want, "{}", request.id);
    }
}
