//! Scoring: what is shared runs once, and changes nothing that is said of a text.

use incise::base::Rng;
use incise::model::completion::Completion;
use incise::model::score::{Score, score, score_units};
use incise::model::{Batch, Model, Past};
use incise::tensor::Precision;

use crate::support::budget::{U32, off};
use crate::support::golden::{Golden, NAMES};

/// Units of texts that share much or nothing: targets of one prompt, prompts that begin alike, one
/// text twice, a prompt that is another's beginning, a prompt of one token, labels that are not the
/// text's own tokens.
fn units(vocabulary: usize) -> Vec<Vec<Completion>> {
    let mut rng = Rng::new(7, "units");
    let mut ids = |n: usize| -> Vec<u32> {
        (0..n).map(|_| (rng.uniform() * vocabulary as f64) as u32).collect()
    };
    let (prompt, other) = (ids(6), ids(5));
    let longer = [&prompt[..], &ids(3)].concat();
    let branched = [&prompt[..4], &ids(2)].concat();
    let [one, two, three] = [1, 2, 3].map(&mut ids);
    let begins_alike = [two[0], three[1]];
    let mut foreign = Completion::new(&prompt, &three);
    foreign.labels = ids(3);
    let text = Completion::new;
    vec![
        vec![text(&prompt, &one), text(&prompt, &two), text(&prompt, &three), foreign],
        vec![text(&other, &two), text(&other, &begins_alike), text(&other, &two)],
        vec![text(&longer, &one), text(&branched, &two), text(&prompt, &longer[6..])],
        vec![text(&prompt[..1], &two), text(&other[..1], &three)],
        vec![text(&other, &three)],
    ]
}

/// ln p of each label, by the logits of a text alone.
fn by_logits(model: &Model, text: &Completion) -> Vec<f64> {
    let rows: Vec<usize> = (text.prompt() - 1..text.read.len()).collect();
    let z = model.logits(&Batch::whole([&text.read]), Past::None, &rows).unwrap();
    let each = text.labels.iter().enumerate().map(|(row, &label)| {
        let z = z.row_f64(row);
        z[label as usize] - z.iter().map(|z| z.exp()).sum::<f64>().ln()
    });
    each.collect()
}

fn log_p(scores: &[Vec<Score>]) -> Vec<f64> {
    scores.iter().flatten().flat_map(|s| s.tokens.iter().map(|t| t.log_p)).collect()
}

/// As in `passes.rs`: at most twice as wrong as whole passes in f32, 512 units in f64.
#[test]
fn a_score_is_that_of_the_text_alone() {
    for name in NAMES {
        let golden = Golden::open(name);
        let [single, double] = [Precision::F32, Precision::F64].map(|p| golden.model(p));
        let units = units(single.arch.vocabulary);
        let texts: Vec<&[Completion]> = units.iter().map(Vec::as_slice).collect();
        let alone = |model: &Model| -> Vec<f64> {
            units.iter().flatten().flat_map(|text| by_logits(model, text)).collect()
        };
        let want = alone(&double);
        let top = want.iter().fold(0.0f64, |a, w| a.max(w.abs()));
        let got = log_p(&score_units(&double, &texts).unwrap());
        assert!(off(&got, &want) <= 512.0 * f64::EPSILON * top, "{name}: {:e}", off(&got, &want));
        let got = log_p(&score_units(&single, &texts).unwrap());
        let budget = 2.0 * off(&alone(&single), &want) + U32 * top;
        assert!(off(&got, &want) <= budget, "{name}: {:e} > {budget:e}", off(&got, &want));
    }
}

/// To the bit: a unit's scores are the same whatever is scored beside it.
#[test]
fn a_score_does_not_depend_on_the_units_beside_it() {
    for name in NAMES {
        let model = Golden::open(name).model(Precision::F32);
        let units = [(); 4].map(|()| units(model.arch.vocabulary)).concat();
        let texts: Vec<&[Completion]> = units.iter().map(Vec::as_slice).collect();
        let together = score_units(&model, &texts).unwrap();
        let backwards: Vec<&[Completion]> = texts.iter().rev().copied().collect();
        let backwards = score_units(&model, &backwards).unwrap();
        assert!(together.iter().eq(backwards.iter().rev()), "{name}");
        for (unit, together) in texts.iter().zip(&together) {
            assert_eq!(&score_units(&model, &[*unit]).unwrap()[0], together, "{name}");
        }
    }
}

/// What greedy decoding leaves a candidate at, and how likely it is.
#[test]
fn a_candidate_that_is_not_said_is_left_at_its_first_other_token() {
    let golden = Golden::open("gpt2");
    let model = golden.model(Precision::F64);
    let prompt = &golden.json.prompts[0];
    let says = |read: &[u32]| {
        let text = Completion { read: read.to_vec(), labels: vec![0] };
        score(&model, &[text]).unwrap()[0].tokens[0].says.unwrap()
    };
    let first = says(prompt);
    let second = says(&[&prompt[..], &[first]].concat());
    let candidates = [vec![first, second], vec![first, second + 1], vec![first + 1, second]];
    let texts = candidates.map(|candidate| Completion::new(prompt, &candidate));
    let scores = score(&model, &texts).unwrap();
    let at = |score: &Score| score.missed().map(|missed| missed.at);
    assert_eq!(scores.iter().map(at).collect::<Vec<_>>(), [None, Some(1), Some(0)]);
    assert_eq!(scores[1].missed().unwrap().says, Some(second));
    let p: f64 = scores[0].tokens.iter().map(|token| token.log_p.exp()).product();
    assert!((scores[0].probability() - p).abs() < 1e-15);
    assert!((scores[0].nll() + p.ln() / 2.0).abs() < 1e-12);
}
