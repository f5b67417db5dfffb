//! README's figures are those that were measured, and what it shows the demo prints, it prints.

#[path = "../tools/scores_table.rs"]
mod scores_table;

use std::fs;
use std::path::Path;
use std::process::Command;

use incise::model::families::FAMILIES;

use crate::support::golden::NAMES;

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

/// The figures may differ in a digit between processors; which models they are of may not.
#[test]
fn the_families_are_the_recorded_ones() {
    let shown = part(&read("README.md"), "families");
    let rows: Vec<[&str; 2]> = shown
        .lines()
        .skip(2)
        .map(|l| l.split('|').map(str::trim).collect::<Vec<_>>())
        .map(|cells| [cells[1].trim_matches('`'), cells[2]])
        .collect();
    for family in &FAMILIES {
        assert!(rows.iter().any(|[name, _]| *name == family.name), "{} has no row", family.name);
    }
    let mut recorded: Vec<&str> = rows.iter().flat_map(|[_, names]| names.split(", ")).collect();
    let mut names = NAMES.to_vec();
    recorded.sort_unstable();
    names.sort_unstable();
    assert_eq!(recorded, names);
}

/// Numbers may differ in their last digit between processors; what the model says may not.
#[test]
fn the_demo_says_what_readme_shows() {
    let out = Command::new(env!("CARGO_BIN_EXE_incise")).arg("demo").output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    let shown = part(&read("README.md"), "demo");
    let shown = shown.trim().trim_start_matches("```text\n").trim_end_matches("\n```");
    let answers = |text: &str| -> Vec<String> {
        text.lines().filter(|l| l.contains(" … ")).map(str::to_owned).collect()
    };
    assert!(answers(shown).len() > 10);
    assert_eq!(answers(&said), answers(shown));
}
