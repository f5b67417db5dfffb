//! Vocabularies of GGUF files, small ones whose ids are counted by hand. `tools/check_gguf` holds
//! real ones to the reference framework and to llama.cpp.

use incise::text::vocabulary::{Spaces, Vocabulary};
use incise::text::{Chat, Tokenizer};
use serde_json::Value;

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn open(vocabulary: &Vocabulary) -> Tokenizer {
    let json = serde_json::to_vec(&vocabulary.tokenizer_json().unwrap()).unwrap();
    Tokenizer::from_json("tokenizer.json", &json).unwrap()
}

fn ids(vocabulary: &Vocabulary, text: &str) -> Vec<u32> {
    open(vocabulary).encode(text).unwrap()
}

/// Letters, digits and a few words, with a control token in front and one of a user behind.
fn byte_level() -> Vocabulary {
    let tokens = ["<|end|>", "a", "b", "Ġ", "1", "2", "ab", "Ġab", "12", "Ġ1", "ĠĠ", "<think>"];
    let mut types = vec![1; tokens.len()];
    (types[0], types[11]) = (3, 4);
    Vocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens: owned(&tokens),
        types,
        merges: Some(owned(&["a b", "Ġ ab", "1 2", "Ġ 1", "Ġ Ġ"])),
        special: vec![("bos_token", 0), ("eos_token", 0)],
        ..Vocabulary::default()
    }
}

#[test]
fn bytes_and_merges() {
    let vocabulary = byte_level();
    assert_eq!(ids(&vocabulary, "ab ab"), [6, 7]);
    assert_eq!(ids(&vocabulary, "ab<|end|>b<think>a"), [6, 0, 2, 11, 1]);
    assert_eq!(open(&vocabulary).decode(&[6, 7, 0]).unwrap(), "ab ab<|end|>");
    let bos = Vocabulary { add_bos: Some(true), add_eos: true, ..byte_level() };
    let tokenizer = open(&bos);
    assert_eq!((&tokenizer.bos[..], &tokenizer.eos[..]), (&[0][..], &[0][..]));
}

/// By GPT-2's pattern a number is one piece with the space before it; by others each digit is one,
/// or three are.
#[test]
fn pre_tokenizers() {
    let by = |pre: &str, text| ids(&Vocabulary { pre: Some(pre.into()), ..byte_level() }, text);
    assert_eq!(by("gpt-2", "a 12"), [1, 3, 8]);
    assert_eq!(by("smollm", "a 12"), [1, 3, 4, 5]);
    assert_eq!(by("qwen2", "a 12"), [1, 3, 4, 5]);
    assert_eq!(by("dbrx", "a 12"), [1, 3, 8]);
    assert_eq!(by("gpt-2", "a  1"), [1, 3, 9]);
    assert_eq!(by("smollm", "a  1"), [1, 10, 4]);
    // Llama 3's begins a text with its token, unless the file says that it does not.
    assert_eq!(by("llama-bpe", "a12"), [0, 1, 8]);
    let without =
        Vocabulary { pre: Some("llama-bpe".into()), add_bos: Some(false), ..byte_level() };
    assert_eq!(ids(&without, "a12"), [1, 8]);
}

/// A piece that no merge makes is found whole where merges are ignored.
#[test]
fn merges_that_are_ignored() {
    let by = |pre: &str| {
        let mut vocabulary = Vocabulary { pre: Some(pre.into()), ..byte_level() };
        vocabulary.tokens[6] = "ba".into();
        vocabulary.merges = Some(vec![]);
        vocabulary.add_bos = Some(false);
        ids(&vocabulary, "ba")
    };
    assert_eq!(by("dbrx"), [2, 1]);
    assert_eq!(by("llama-bpe"), [6]);
}

/// Pieces with scores: `▁ab` is made of `▁a` and `b`, whose score is better than that of `ab`.
fn sentence_piece() -> Vocabulary {
    let tokens =
        ["<unk>", "<s>", "</s>", "<0x0A>", "<0x21>", "▁", "a", "b", "▁a", "ab", "▁ab", "aa", "▁▁"];
    let mut types = vec![1; tokens.len()];
    (types[0], types[1], types[2], types[3], types[4]) = (2, 3, 3, 6, 6);
    Vocabulary {
        model: "llama".into(),
        tokens: owned(&tokens),
        scores: vec![0., 0., 0., 0., 0., -9., -9., -9., -1., -2., -3., -4., -5.],
        types,
        special: vec![("bos_token", 1), ("eos_token", 2), ("unk_token", 0)],
        ..Vocabulary::default()
    }
}

#[test]
fn pieces_and_scores() {
    let vocabulary = sentence_piece();
    assert_eq!(ids(&vocabulary, "ab"), [1, 10]);
    assert_eq!(ids(&vocabulary, "ab aab"), [1, 10, 8, 9]);
    assert_eq!(ids(&vocabulary, "a!\n"), [1, 8, 4, 3], "bytes");
    assert_eq!(ids(&vocabulary, "a</s>a"), [1, 8, 2, 6], "no space after a control token");
    assert_eq!(open(&vocabulary).decode(&[10, 8, 9]).unwrap(), "ab aab");
    let without = Vocabulary { add_space: Some(false), ..sentence_piece() };
    assert_eq!(ids(&without, "ab"), [1, 9]);
    // What is in the file is taken: here, that ab is not made of its letters.
    let merges = Some(owned(&["▁ a"]));
    assert_eq!(ids(&Vocabulary { merges, ..sentence_piece() }, "ab"), [1, 8, 7]);
}

/// A space before a text that begins with one: put there by Phi-3's, by Llama's once only.
#[test]
fn spaces() {
    let by = |spaces, text| ids(&Vocabulary { spaces, ..sentence_piece() }, text);
    assert_eq!(by(Spaces::Llama, " a"), [1, 8]);
    assert_eq!(by(Spaces::Phi3, " a"), [1, 5, 8]);
    assert_eq!(by(Spaces::Gemma, "a a"), [1, 6, 8]);
    assert_eq!(by(Spaces::Llama, "a  b"), [1, 8, 12, 7]);
}

/// Gemma's merges follow the ids: `aa` is before `▁▁` but after `ab`. Runs of spaces are written as
/// spaces, and are pieces like others.
#[test]
fn ids_in_the_place_of_scores() {
    let mut vocabulary = Vocabulary { spaces: Spaces::Gemma, ..sentence_piece() };
    vocabulary.scores.fill(-1000.0);
    vocabulary.tokens[12] = "  ".into();
    vocabulary.types[12] = 4;
    assert_eq!(ids(&vocabulary, "aab"), [1, 6, 9]);
    assert_eq!(ids(&vocabulary, "a  b"), [1, 6, 12, 7]);
    assert_eq!(open(&vocabulary).decode(&[6, 12, 7]).unwrap(), "a  b");
    let json = vocabulary.tokenizer_json().unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    assert_eq!(added.len(), 2, "{added:?}");
}

/// Of one score, the merge of the longer left piece comes first.
#[test]
fn merges_of_one_score() {
    let vocabulary = Vocabulary {
        model: "llama".into(),
        tokens: owned(&["a", "aa", "aaa", "b"]),
        scores: vec![-1.0, -2.0, -2.0, -0.0],
        ..Vocabulary::default()
    };
    let merges = vocabulary.tokenizer_json().unwrap()["model"]["merges"].clone();
    let want = serde_json::json!([["aa", "a"], ["a", "aa"], ["a", "a"]]);
    assert_eq!(merges, want);
}

#[test]
fn the_files_of_a_folder() {
    let temp = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| {
        std::fs::write(temp.path().join(name), value.to_string()).unwrap();
    };
    let template = "{% for m in messages %}[{{ m['content'] }}]{{ eos_token }}{% endfor %}";
    let vocabulary =
        Vocabulary { chat_template: Some(template.to_owned()), longest: Some(71), ..byte_level() };
    write("tokenizer.json", &vocabulary.tokenizer_json().unwrap());
    let config = vocabulary.tokenizer_config();
    write("tokenizer_config.json", &config);
    assert_eq!(config["bos_token"], "<|end|>");
    assert_eq!(config["model_max_length"], 71);
    let tokenizer = Tokenizer::open(temp.path()).unwrap();
    assert_eq!((tokenizer.end, &tokenizer.difference), (Some(0), &None));
    let chat = Chat::open(temp.path()).unwrap();
    assert_eq!(chat.render("ab").unwrap(), "[ab]<|end|>");
}

#[test]
fn vocabularies_that_are_none() {
    let refused = |vocabulary: Vocabulary, key: &str, why: &str| {
        let (field, what) = vocabulary.tokenizer_json().unwrap_err();
        assert!(field == key && what.contains(why), "{field}: {what}");
    };
    let of = |change: fn(&mut Vocabulary)| {
        let mut vocabulary = byte_level();
        change(&mut vocabulary);
        vocabulary
    };
    refused(of(|v| v.model = "bert".into()), "model", "`bert` is not implemented");
    refused(of(|v| v.pre = Some("x".into())), "pre", "`x` is not implemented; there are default,");
    refused(of(|v| v.merges = None), "merges", "is missing");
    refused(of(|v| v.merges = Some(owned(&["a b c"]))), "merges", "\"a b c\" is not two pieces");
    refused(of(|v| v.merges = Some(owned(&["a"]))), "merges", "is not two pieces");
    refused(of(|v| v.tokens.clear()), "token_type", "has 12 values for 0 tokens");
    refused(of(|v| v.scores.push(0.0)), "scores", "has 1 values for 12 tokens");
    let begins = |v: &mut Vocabulary| (v.add_bos, v.special[0].1) = (Some(true), 12);
    refused(of(begins), "tokens", "bos_token is 12, and there are 12");
    refused(Vocabulary::default(), "tokens", "are none");
    let scoreless = Vocabulary { scores: vec![], ..sentence_piece() };
    refused(scoreless, "scores", "are missing, and so are merges");
}
