//! Each rule on answers small enough to count by hand.

use incise::data::Snippets;
use incise::eval::fluency::References;
use incise::eval::item::{Answer, Compared, Rule, normalised};
use incise::model::score::{Score, TokenScore};
use serde_json::json;

/// A score of tokens with these probabilities, of which these are the likeliest.
fn takes(tokens: &[(f64, bool)]) -> Answer {
    let token = |(label, &(p, hit)): (usize, &(f64, bool))| TokenScore {
        label: label as u32,
        log_p: p.ln(),
        says: Some(if hit { label as u32 } else { 99 }),
    };
    Answer::Takes(Score { tokens: tokens.iter().enumerate().map(token).collect() })
}

fn says(tokens: &[u32], text: &str) -> Answer {
    Answer::Says { tokens: tokens.to_vec(), text: text.to_owned() }
}

fn value(rule: &Rule, before: &[&Answer], now: &[&Answer]) -> f64 {
    rule.value(before, now)
}

/// Candidates of different lengths are compared by the mean over their tokens: ¼·1 has a geometric
/// mean of ½, and beats 0.4.
#[test]
fn candidates_are_compared_by_the_mean_of_a_token() {
    let (long, short) = (takes(&[(0.25, true), (1.0, true)]), takes(&[(0.4, false)]));
    let both = [&long, &short];
    assert_eq!(value(&Rule::Likelier, &both, &both), 1.0);
    assert!((value(&Rule::Magnitude, &both, &both) - (0.5 - 0.4)).abs() < 1e-15);
    let other = [&short, &long];
    assert_eq!(value(&Rule::Likelier, &other, &other), 0.0);
    assert_eq!(
        value(&Rule::Likelier, &[&short; 2], &[&short; 2]),
        0.0,
        "as likely is not likelier"
    );
}

#[test]
fn tokens_are_counted_where_they_are_the_likeliest() {
    let two = takes(&[(0.5, true), (0.1, false)]);
    let one = takes(&[(0.5, true)]);
    assert_eq!(value(&Rule::Share, &[], &[&two, &one]), 2.0 / 3.0);
    assert_eq!(value(&Rule::Said, &[], &[&two]), 0.0);
    assert_eq!(value(&Rule::Said, &[], &[&two, &one]), 1.0, "any spelling");
}

/// What it agrees with is what it held before, right or wrong.
#[test]
fn agreement_is_with_what_was_held_before() {
    let before = takes(&[(0.5, true), (0.1, false), (0.2, false)]);
    let now = takes(&[(0.5, false), (0.3, false), (0.2, false)]);
    assert_eq!(value(&Rule::Agrees, &[&before], &[&now]), 2.0 / 3.0);
    assert_eq!(value(&Rule::Agrees, &[&before], &[&before]), 1.0);
}

#[test]
fn texts_are_right_in_any_spelling() {
    let answers = |by, right: &[&str]| Rule::Answers {
        right: right.iter().map(|&right| right.to_owned()).collect(),
        by,
    };
    let said = |text| says(&[1], text);
    let is = |rule: &Rule, text| value(rule, &[], &[&said(text)]);
    let exact = answers(Compared::Text, &["Washington, D.C.", "the capital"]);
    assert_eq!([is(&exact, " the capital "), is(&exact, "The capital")], [1.0, 0.0]);
    let squad = answers(Compared::Normalised, &["The  Beatles!"]);
    assert_eq!([is(&squad, "beatles"), is(&squad, "beatle")], [1.0, 0.0]);
    let thought = answers(Compared::Answer, &["Asia"]);
    assert_eq!(is(&thought, " It is in India.\nAnswer: Asia\nQuestion: which?"), 1.0);
    assert_eq!(is(&thought, " Asia"), 0.0, "no answer was given");
    let three = [said("Europe"), said("x"), said("Asia\n")];
    let three: Vec<&Answer> = three.iter().collect();
    assert_eq!(value(&answers(Compared::Text, &["Asia"]), &[], &three), 1.0, "any question");
}

#[test]
fn what_is_said_is_compared_by_its_tokens() {
    let (before, other) = (says(&[1, 2], "a b"), says(&[1, 3], "a b"));
    assert_eq!(value(&Rule::SaysTheSame, &[&before], &[&before]), 1.0);
    assert_eq!(value(&Rule::SaysTheSame, &[&before], &[&other]), 0.0);
    assert_eq!(value(&Rule::Divergence, &[], &[&Answer::Next(0.5), &Answer::Next(0.25)]), 0.375);
    assert_eq!(value(&Rule::Known(0.25), &[], &[]), 0.25);
}

/// SQuAD's own examples of what does not count.
#[test]
fn case_articles_and_punctuation_do_not_count() {
    for (text, want) in [
        ("The quick, brown  fox.", "quick brown fox"),
        ("an A the", ""),
        ("Theatre and Ann", "theatre and ann"),
        ("U.S.A.", "usa"),
        ("Ünïcode “quotes”", "ünïcode “quotes”"),
    ] {
        assert_eq!(normalised(text), want);
    }
}

/// Two snippets of the item, one of another; ln(4/2) + 1 for words in one of three, ln(4/3) + 1 for
/// those in two. The sampled text has "violin" once and "plays" once, the snippets of the item
/// "violin" twice, "plays" once and "drums" never.
#[test]
fn sampled_text_is_compared_with_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("snippets.json");
    let record = |item: &str, texts: &[&str]| {
        let samples: Vec<_> = texts.iter().map(|text| json!({"name": "-", "text": text})).collect();
        json!({"relation_id": "P1303", "target_id": item, "samples": samples})
    };
    let records = json!([record("Q1", &["violin", "violin plays"]), record("Q2", &["drums"])]);
    std::fs::write(&file, records.to_string()).unwrap();
    let references = References::new(&Snippets::read(&file).unwrap());
    assert!(references.of("P1303", "Q3").is_none() && references.of("P19", "Q1").is_none());
    let (idf, written) = references.of("P1303", "Q1").unwrap();
    let rule = Rule::Consistency { prompts: vec!["Plays".into(), "The".into()], idf, written };
    let [in_two, in_one] = [3.0f64, 2.0].map(|df| (4.0 / df).ln() + 1.0);
    let (text, written) = ([in_two, in_one], [2.0 * in_two, in_one]);
    let dot = text[0] * written[0] + text[1] * written[1];
    let norm = |v: [f64; 2]| (v[0] * v[0] + v[1] * v[1]).sqrt();
    let got = value(&rule, &[], &[&says(&[], " violin"), &says(&[], " oboe")]);
    let want = dot / (norm(text) * norm(written));
    assert!((got - want).abs() < 1e-12, "{got} for {want}");
    let got = value(&rule, &[], &[&says(&[], ""), &says(&[], "")]);
    assert!((got - written[1] / norm(written)).abs() < 1e-12, "plays alone: {got}");

    std::fs::write(&file, "[]").unwrap();
    assert!(Snippets::read(&file).unwrap_err().to_string().contains("there are none"));
    std::fs::write(&file, r#"{"relation_id": 3}"#).unwrap();
    assert!(Snippets::read(&file).unwrap_err().to_string().contains("line 1: is no snippets"));
}
