use std::fs;

use incise::text::Tokenizer;
use serde_json::{Value, json};

use super::toys;
use crate::support::shared::shared;

fn folder(files: &[(&str, String)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// vocab.json and merges.txt of a byte-level toy.
fn two_files(words: &[&str]) -> (String, String) {
    let model = &toys::byte_level_json(words)["model"];
    let pair = |m: &Value| format!("{} {}\n", m[0].as_str().unwrap(), m[1].as_str().unwrap());
    let merges: String = model["merges"].as_array().unwrap().iter().map(pair).collect();
    (model["vocab"].to_string(), format!("#version: 0.2\n{merges}"))
}

const WORDS: &[&str] = &["Ġis", "ĠParis", "Paris"];

#[test]
fn stored_truncation_padding_and_dropout_are_off() {
    let mut json = toys::byte_level_json(WORDS);
    let plain = toys::build(&json);
    json["truncation"] = json!({"direction": "Right", "max_length": 3,
                                "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Left",
        "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    json["model"]["dropout"] = 1.0.into();
    let stored = toys::build(&json);
    let text = "Paris is Paris is Paris is Paris";
    assert_eq!(stored.encode(text).unwrap(), plain.encode(text).unwrap());
    assert_eq!(plain.encode(text).unwrap().len(), 7);
}

#[test]
fn gpt2s_two_files_open_under_both_names() {
    let (vocab, merges) = two_files(WORDS);
    let json = toys::byte_level(WORDS);
    for (first, second) in [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")] {
        let dir = folder(&[(first, vocab.clone()), (second, merges.clone())]);
        let tok = Tokenizer::open(dir.path()).unwrap();
        let text = "<|endoftext|>Paris is 東京, Paris's";
        assert_eq!(tok.encode_spans(text).unwrap(), json.encode_spans(text).unwrap());
        assert_eq!(tok.encode(text).unwrap()[0], 256);
        assert_eq!(tok.decode(&tok.encode(text).unwrap()).unwrap(), text);
        assert!(tok.bos.is_empty());
    }
}

#[test]
fn tokenizer_json_comes_before_the_two_files() {
    let (vocab, merges) = two_files(&[]);
    let dir = folder(&[
        ("vocab.json", vocab),
        ("merges.txt", merges),
        ("tokenizer.json", toys::byte_level_json(WORDS).to_string()),
    ]);
    assert_eq!(Tokenizer::open(dir.path()).unwrap().encode("Paris").unwrap().len(), 1);
}

#[test]
fn tokenizer_config_adds_the_beginning_of_sequence() {
    let (vocab, merges) = two_files(WORDS);
    let config = json!({"add_bos_token": true, "bos_token": {"content": "<|endoftext|>"}});
    let dir = folder(&[
        ("vocab.json", vocab),
        ("merges.txt", merges),
        ("tokenizer_config.json", config.to_string()),
    ]);
    let tok = Tokenizer::open(dir.path()).unwrap();
    assert_eq!(tok.bos, [256]);
    let paris = toys::byte_level(WORDS).encode("Paris").unwrap();
    assert_eq!(tok.encode("Paris").unwrap(), [256, paris[0]]);
    assert_eq!(tok.encode_target("is", "Paris", None).unwrap(), tok.encode(" Paris").unwrap()[1..]);
}

#[test]
fn broken_files_are_named_with_what_to_do() {
    let (vocab, merges) = two_files(WORDS);
    let says = |files: &[(&str, String)], words: &[&str]| {
        let dir = folder(files);
        let error = Tokenizer::open(dir.path()).err().expect("opened").to_string();
        for word in words {
            assert!(error.contains(word), "{error:?} does not say {word:?}");
        }
    };
    says(&[], &["tokenizer.json", "is missing", "save_pretrained"]);
    says(&[("tokenizer.json", "{".into())], &["tokenizer.json: line 1", "is not JSON"]);
    says(&[("tokenizer.json", "[1]".into())], &["tokenizer.json: tokenizer"]);
    says(&[("tokenizer.json", "{}".into())], &["tokenizer.json: tokenizer"]);
    let mut json = toys::byte_level_json(WORDS);
    json["model"]["merges"][1] = json!(["ZZZZZZZZZZ", "ZZZZZZZZZZZZZZ"]);
    says(&[("tokenizer.json", json.to_string())], &["merge 1", "is not in the vocabulary"]);
    json["model"]["merges"] = json!(["a b c", "abc", 7, []]);
    says(&[("tokenizer.json", json.to_string())], &["merge 0"]);
    let mut json = toys::sentencepiece_json(WORDS);
    json["post_processor"]["special_tokens"] = json!({});
    let words = ["tokenizer.json: post_processor", "\"<s>\"", "copy the file again"];
    says(&[("tokenizer.json", json.to_string())], &words);
    json["post_processor"] = json!({"type": "Sequence", "processors": [json["post_processor"]]});
    says(&[("tokenizer.json", json.to_string())], &words);
    let both = |vocab: &str, merges: &str| {
        [("vocab.json", vocab.to_string()), ("merges.txt", merges.to_string())]
    };
    says(&both("[]", &merges), &["vocab.json: line 1", "not a JSON object"]);
    says(&both("{}", &merges), &["vocab.json: merge 0"]);
    says(&both(&vocab, "#version\na b c\n"), &["merges.txt: line 2"]);
}

#[test]
fn targets_get_one_space_and_no_special_token() {
    for tok in [
        toys::byte_level(&["ĠParis"]),
        toys::sentencepiece(&["▁Paris"]),
        toys::metaspace(&["▁Paris"]),
    ] {
        let id = tok.encode_target("is", "Paris", None).unwrap();
        assert_eq!(id.len(), 1, "{:?}", tok.bos);
        assert_eq!(tok.token_text(id[0]), " Paris");
        assert_eq!(tok.encode_target("is", " Paris", None).unwrap(), id);
        assert_eq!(tok.encode("a Paris").unwrap().last(), id.last());
        for empty in ["", " ", "\n"] {
            let error = tok.encode_target("is", empty, None).unwrap_err().to_string();
            assert!(error.contains("target"), "{error}");
        }
    }
}

#[test]
fn partial_targets_keep_their_space() {
    for tok in
        [toys::byte_level(&["ĠNew"]), toys::sentencepiece(&["▁New"]), toys::metaspace(&["▁New"])]
    {
        let ids = tok.encode_target("is", "New York", None).unwrap();
        assert_eq!(tok.decode_after(&ids).unwrap(), " New York");
        assert_eq!(tok.decode_after(&ids[..1]).unwrap(), " New");
        assert_eq!(tok.decode_after(&[]).unwrap(), "");
    }
}

#[test]
fn display_names_what_is_no_whole_character() {
    let tok = toys::byte_level(&["ĠParis", "Ġæ"]);
    let ids = tok.encode(" Paris東 東").unwrap();
    assert_eq!(tok.token_text(ids[0]), " Paris");
    assert_eq!(tok.token_text(ids[1]), "<0xE6>");
    assert_eq!(tok.token_text(ids[4]), " <0xE6>");
    assert_eq!(tok.token_text(ids[5]), "<0x9D>", "a byte that has no letter of its own in Latin-1");
    assert_eq!(tok.token_text(99_999), "<99999>");
    assert_eq!(tok.decode(&[99_999]).unwrap(), "");
}

#[test]
fn vocabulary_size_covers_the_largest_id() {
    let mut json = toys::byte_level_json(&[]);
    assert_eq!(toys::build(&json).vocab_size(), 257);
    json["model"]["vocab"]["far"] = 999.into();
    assert_eq!(toys::build(&json).vocab_size(), 1000);
}

#[test]
fn added_tokens_before_and_after_are_told_apart() {
    let mut json = toys::sentencepiece_json(&[]);
    assert_eq!(toys::build(&json).bos, [1]);
    let eos = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    json["post_processor"]["single"].as_array_mut().unwrap().push(eos);
    json["post_processor"]["special_tokens"]["</s>"] =
        json!({"id": "</s>", "ids": [2], "tokens": ["</s>"]});
    let tok = toys::build(&json);
    assert_eq!((&tok.bos[..], &tok.eos[..]), (&[1][..], &[2][..]));
    let encoded = tok.encode_spans("a").unwrap();
    assert_eq!(encoded.spans.first(), Some(&(0, 0)));
    assert_eq!(encoded.spans.last(), Some(&(0, 0)));
}

#[test]
fn gpt2s_own_files_round_trip_and_targets_are_plain() {
    const NAME: &str = "gpt2s_own_files_round_trip_and_targets_are_plain";
    let (Some(dir), Some(cases)) =
        (shared(NAME, "gpt2_tokenizer"), shared(NAME, "counterfact/counterfact-1200.json"))
    else {
        return;
    };
    let tok = Tokenizer::open(dir).unwrap();
    assert_eq!(tok.vocab_size(), 50_257);
    // Known ids: "Hello world" and the end-of-text token.
    assert_eq!(tok.encode("Hello world<|endoftext|>").unwrap(), [15496, 995, 50256]);
    for request in incise::data::request::read(cases).unwrap() {
        let text = format!(" {}", request.target_new);
        let ids = tok.encode_target("is", &request.target_new, None).unwrap();
        assert_eq!(ids, tok.encode(&text).unwrap());
        assert_eq!(tok.decode_after(&ids).unwrap(), text);
        for prompt in &request.paraphrases {
            assert_eq!(&tok.decode(&tok.encode(prompt).unwrap()).unwrap(), prompt);
        }
    }
}
