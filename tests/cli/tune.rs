//! `incise tune`: settings that `edit` reads, what was tried, and refusals.

use std::fs;
use std::path::Path;

use serde_json::{Value, json as value};

use crate::support::session::{Session, done, fails, json};

/// Records of subjects of their own, with old and new targets in turn.
fn records(s: &Session, new: &dyn Fn(usize) -> [&'static str; 2]) -> String {
    let record = |i: usize| {
        let [new, old] = new(i);
        value!({"case_id": i, "requested_rewrite": {"prompt": "{} is in",
            "subject": format!("The house {i}"), "relation_id": format!("P{i}"),
            "target_new": {"str": new}, "target_true": {"str": old}},
            "paraphrase_prompts": [format!("You find the house {i} in")],
            "neighborhood_prompts": [format!("The garden {i} is in")]})
    };
    let file = s.at("records.json");
    fs::write(&file, Value::from((0..24).map(record).collect::<Vec<_>>()).to_string()).unwrap();
    file
}

fn read(file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn settings_are_chosen_reported_and_read_by_edit() {
    let s = Session::new("gpt2");
    let (model, output) = (s.at("model"), s.at("hparams-found.json"));
    let file = records(&s, &|i| [["Rome", "England"], ["England", "Rome"]][i % 2]);
    let tune = ["tune", &model, "--data", &file, "--method", "ft-m", "--facts", "5"];
    let fixed = ["--set", "num_steps=8", "-o", &output, "--json"];
    let told = json(&[&tune[..], &fixed].concat());
    let [found, table] =
        [output.clone(), format!("{output}.tune/table.json")].map(|file| read(&file));
    assert_eq!(told["hyperparameters"], found);
    assert_eq!(found["num_steps"], 8, "what was set stays: {found}");
    assert_eq!(table["why"], told["why"]);
    assert_eq!(
        [table["choose"].as_array(), table["report"].as_array()].map(|a| a.unwrap().len()),
        [10, 14]
    );
    assert_eq!(told["reported"]["facts"], 14);
    assert!(told["chosen"]["es"].as_f64().unwrap() >= 50.0, "{told}");
    for name in ["trade-off.svg", "table.json"] {
        assert!(Path::new(&format!("{output}.tune/{name}")).exists(), "{name}");
    }
    // The report is an evaluation like any other.
    let folder = told["reported"]["folder"].as_str().unwrap();
    let summary = read(&format!("{folder}/summary.json"));
    assert_eq!(summary["metrics"]["counterfact.es"]["mean"], told["reported"]["es"]);

    // Called again, it finds what was measured.
    let trial = fs::read_dir(format!("{output}.tune/trials")).unwrap().next().unwrap().unwrap();
    let results = trial.path().join("results.jsonl");
    let before = fs::read_to_string(&results).unwrap();
    let again = json(&[&tune[..], &fixed].concat());
    assert_eq!(again["hyperparameters"], told["hyperparameters"]);
    assert_eq!(fs::read_to_string(&results).unwrap(), before);

    let patch = s.at("a.patch");
    done(&[
        "edit",
        &model,
        "--prompt",
        "{} is in",
        "--subject",
        "The house 3",
        "--to",
        "Rome",
        "--method",
        "ft-m",
        "--hparams",
        &output,
        "-o",
        &patch,
    ]);
}

#[test]
fn where_nothing_works_it_says_so_and_writes_no_settings() {
    let s = Session::new("gpt2");
    let (model, output) = (s.at("model"), s.at("none.json"));
    // The likelier target first is the old one: what the model takes of its own does not count.
    let probe = records(&s, &|_| ["Rome", "England"]);
    let plain = s.at("plain");
    done(&["eval", &model, "--data", &probe, "--metrics", "counterfact", "-o", &plain]);
    let results = fs::read_to_string(format!("{plain}/results.jsonl")).unwrap();
    let mut takes = [false; 24];
    for line in results.lines() {
        let result: Value = serde_json::from_str(line).unwrap();
        let values = result["values"].as_array().unwrap();
        let es = values.iter().find(|value| value["metric"] == "counterfact.es").unwrap();
        takes[result["place"].as_u64().unwrap() as usize] = es["before"] == 1.0;
    }
    let file = records(&s, &|i| match takes[i] {
        true => ["England", "Rome"],
        false => ["Rome", "England"],
    });
    let tune = ["tune", &model, "--data", &file, "-o", &output, "--method"];
    let weak = ["ft-m", "--set", "num_steps=1", "--set", "lr=1e-12"];
    let error = fails(1, &[&tune[..], &weak].concat());
    assert!(error.contains("nothing that was tried works; the best was layers"), "{error}");
    assert!(!Path::new(&output).exists());
    // What tuning did not write stays.
    let own = s.at("own.json");
    fs::write(&own, "{\"layers\": [0]}").unwrap();
    let onto = ["tune", &model, "--data", &file, "-o", &own, "--method", "ft-m"];
    assert!(fails(1, &onto).contains("no file that tuning wrote"));
    let other = fails(1, &[&tune[..], &["memit"]].concat());
    assert!(other.contains("method: is of another run"), "{other}");
    let elsewhere = s.at("elsewhere.json");
    let tune = ["tune", &model, "--data", &file, "-o", &elsewhere, "--method"];
    let error = fails(1, &[&tune[..], &["memit"]].concat());
    assert!(error.contains("no text to collect them from"), "{error}");
    let error = fails(1, &[&tune[..], &["grace"]].concat());
    assert!(error.contains("no settings to try are known of grace"), "{error}");
}
