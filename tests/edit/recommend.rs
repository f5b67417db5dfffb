//! Which method is recommended, by rows that are made up so that each rule decides once.

use incise::edit::recommend::{MeasuredMethod, MeasuredMode, MeasuredModel, Recommendation};
use incise::model::arch::Arch;
use incise::tensor::Precision;

use crate::support::golden::Golden;

fn arch(name: &'static str) -> Arch {
    Golden::open(name).model(Precision::F64).arch
}

fn row(method: &str, mode: MeasuredMode, score: f64) -> MeasuredMethod {
    MeasuredMethod {
        method: method.into(),
        mode,
        facts: 100,
        es: 99.0,
        ps: 90.0,
        ns: 75.0,
        ns_before: 80.0,
        score,
        seconds: Some(2.0),
        peak_bytes: 1_000,
    }
}

/// Two models, the larger of which was measured with many facts only.
fn measured(norm_behind: bool) -> &'static [MeasuredModel] {
    let model = |name: &str, parameters, rows| MeasuredModel {
        model: name.into(),
        parameters,
        norm_behind,
        rows,
    };
    let small = vec![
        row("ft-m", MeasuredMode::Single, 60.0),
        row("r-rome", MeasuredMode::Single, 90.0),
        row("memit", MeasuredMode::Batch, 70.0),
    ];
    let large = vec![
        row("emmet", MeasuredMode::Batch, 85.0),
        row("memit", MeasuredMode::Batch, 88.0),
        row("rome", MeasuredMode::Sequential, 95.0),
    ];
    vec![model("small", 1_000, small), model("large", 1_000_000, large)].leak()
}

#[test]
fn one_fact_is_judged_alone_and_many_together() {
    let (arch, rows) = (arch("llama"), measured(false));
    let one = Recommendation::by(rows, &arch, 900_000, 1).unwrap();
    let named = |r: &Recommendation| (r.method.about().name, r.model.model.as_str());
    assert_eq!(named(&one), ("r-rome", "small"), "the large one has nothing of one fact");
    assert_eq!(one.seconds, Some(2.0 * 900.0));

    let few = Recommendation::by(rows, &arch, 900_000, 20).unwrap();
    assert_eq!(named(&few), ("rome", "large"));
    assert!(few.broken.is_empty());

    let many = Recommendation::by(rows, &arch, 900_000, 200).unwrap();
    assert_eq!(named(&many), ("memit", "large"), "rome breaks from 100 facts on");
    assert_eq!(many.broken.iter().map(|row| &row.method).collect::<Vec<_>>(), ["rome"]);
    assert_eq!(many.seconds, Some(2.0 * 200.0 * 0.9));
    let why = many.why(200);
    assert!(why.contains("emmet follows with 85.0"), "{why}");
    assert!(why.contains("2 methods that were measured there and are left"), "{why}");
    assert!(!why.contains("nothing is known"), "of memit something is: {why}");
    let why = few.why(20);
    assert!(why.ends_with("there; memit, at once, follows with 88.0"), "{why}");
    assert_eq!(named(&Recommendation::by(rows, &arch, 2_000, 200).unwrap()), ("memit", "small"));
}

/// A method that nothing is known of is not praised for it.
#[test]
fn what_nothing_is_known_of_is_said() {
    let rows = vec![
        row("rome", MeasuredMode::Sequential, 95.0),
        row("betaedit", MeasuredMode::Batch, 85.0),
    ];
    let model = MeasuredModel { model: "one".into(), parameters: 1_000, norm_behind: false, rows };
    let many = Recommendation::by(vec![model].leak(), &arch("llama"), 1_000, 200).unwrap();
    let why = many.why(200);
    assert!(why.ends_with("nothing is known of betaedit with so many"), "{why}");
}

#[test]
fn a_norm_behind_the_mlp_asks_for_rows_of_its_own() {
    let behind = arch("olmo2");
    let error = Recommendation::by(measured(false), &behind, 1_000, 100).err().unwrap();
    assert!(error.to_string().contains("no method was measured"), "{error}");
    let found = Recommendation::by(measured(true), &behind, 1_000_000, 100).unwrap();
    assert_eq!(found.method.about().name, "emmet", "memit refuses such a model");
    let real = Recommendation::of(&behind, 1_000_000, 100).unwrap();
    assert_eq!((&real.model.model[..], real.best.mode), ("gemma3-270m", MeasuredMode::Batch));
    let one = Recommendation::of(&behind, 1_000_000, 1).err().unwrap().to_string();
    assert!(one.contains("with one fact; ask for several facts"), "{one}");
}
