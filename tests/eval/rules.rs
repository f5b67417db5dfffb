//! Each rule on answers small enough to count by hand.

use incise::eval::item::{Answer, Compared, Rule, normalised};
use incise::model::score::{Score, TokenScore};

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
