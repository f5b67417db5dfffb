//! README's figures and docs/families.md's are those that were measured, and what README shows that
//! the demo prints, it prints.

#[path = "../../tools/scores_table.rs"]
mod scores_table;

use std::fs;
use std::path::Path;
use std::process::Command;

use incise::model::Batch;
use incise::model::Past;
use incise::model::families::FAMILIES;
use incise::tensor::Precision;

use crate::edit::reference::random;
use crate::support::budget::off;
use crate::support::golden::{Golden, NAMES};

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// What stands between `<!-- name -->` and `<!-- /name -->`.
fn part(readme: &str, name: &str) -> String {
    let (from, to) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let after = readme.split_once(&from).unwrap().1;
    after.split_once(&to).unwrap().0.to_owned()
}

#[test]
fn the_scores_are_the_measured_ones() {
    let scores = serde_json::from_str(&read("demo/scores.json")).unwrap();
    assert_eq!(part(&read("README.md"), "scores"), scores_table::markdown(&scores));
}

/// A figure as the table has it, and in brackets what is allowed.
fn figures(cell: &str) -> [f64; 2] {
    let (shown, allowed) = cell.split_once(" (").unwrap();
    [shown, allowed.trim_end_matches(')')].map(|x| x.parse().unwrap())
}

/// The largest difference of a logit from the record, in f32, and the budgets of all.
fn logits(golden: &Golden) -> (f64, Vec<f64>) {
    let model = golden.model(Precision::F32);
    let (mut worst, mut budgets) = (0.0f64, Vec::new());
    for (i, prompt) in golden.json.prompts.iter().enumerate() {
        let name = format!("logits.{i}");
        let all: Vec<usize> = (0..prompt.len()).collect();
        let z = model.logits(&Batch::whole([prompt]), Past::None, &all).unwrap();
        worst = worst.max(off(&z.to_f64(), &golden.tensor(&name)));
        budgets.push(golden.f32_budget(&name));
    }
    (worst, budgets)
}

/// The figures may differ in a digit between processors; what is allowed may not, nor which models
/// they are of.
#[test]
fn the_families_are_the_recorded_ones() {
    let shown = part(&read("docs/families.md"), "families");
    let cells = |l: &str| l.split('|').map(|c| c.trim().to_owned()).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = shown.lines().skip(2).map(cells).collect();
    for family in &FAMILIES {
        let name = format!("`{}`", family.name);
        assert!(rows.iter().any(|row| row[1] == name), "{name} has no row");
    }
    let mut recorded = Vec::new();
    let is = |shown: f64, figure: f64| (shown / figure - 1.0).abs() <= 0.05; // two digits of it
    for row in &rows {
        let name = |name: &&str| row[2].split(", ").any(|of| of == *name);
        let goldens: Vec<Golden> = NAMES.into_iter().filter(name).map(Golden::open).collect();
        recorded.extend(goldens.iter().map(|golden| golden.name));
        let (worst, budgets): (Vec<f64>, Vec<_>) = goldens.iter().map(logits).unzip();
        let worst = worst.into_iter().fold(0.0, f64::max);
        let [figure, allowed] = figures(&row[3]);
        println!("{}: logits {worst:.1e}, and the page has {figure:.1e}", row[1]);
        assert!(budgets.concat().iter().any(|&b| is(allowed, b)), "{}: {allowed:e}", row[1]);
        assert!(figure <= allowed && (0.5..2.0).contains(&(figure / worst)), "{figure}, {worst}");
        let [figure, allowed] = figures(&row[4]);
        let budgets = goldens.iter().map(|golden| golden.f32_budget("search.grad"));
        assert!(budgets.into_iter().any(|b| is(allowed, b)), "{}: gradient {allowed:e}", row[1]);
        assert!(figure > 0.0 && figure <= allowed, "{}: gradient {figure:e}", row[1]);
        let change: f64 = row[5].parse().unwrap();
        assert!(change > 0.0 && change <= random().change, "{}: ΔW {change:e}", row[1]);
    }
    let mut names = NAMES.to_vec();
    recorded.sort_unstable();
    names.sort_unstable();
    assert_eq!(recorded, names);
}

/// Numbers may differ in their last digit between processors; what the model says may not.
#[test]
fn the_demo_says_what_readme_shows() {
    let out = Command::new(env!("CARGO_BIN_EXE_incise"))
        .env("CUDA_VISIBLE_DEVICES", "")
        .arg("demo")
        .output()
        .unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    let shown = part(&read("README.md"), "demo");
    let shown = shown.trim().trim_start_matches("```text\n").trim_end_matches("\n```");
    let answers = |text: &str| -> Vec<String> {
        text.lines().filter(|l| l.contains(" … ")).map(str::to_owned).collect()
    };
    assert!(answers(shown).len() > 10);
    assert_eq!(answers(&said), answers(shown));
}
