//! The page of a run: well-formed, of one piece, without anybody's markup, and true.

use std::fs;

use incise::eval::compare::Comparison;
use incise::eval::report;
use serde_json::{Value, json};
use tempfile::tempdir;

use super::runs::{case, run, value, write};

/// Complains of tags that are not balanced, attributes without quotes, and loose `<` and `&`.
fn check_markup(page: &str) {
    const VOID: [&str; 1] = ["meta"];
    let body = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let style = body.find("<style>").unwrap() + "<style>".len()..body.find("</style>").unwrap();
    let body = [&body[..style.start], &body[style.end..]].concat();
    let mut open: Vec<&str> = Vec::new();
    for (i, _) in body.match_indices('<') {
        let tag = &body[i + 1..i + body[i..].find('>').unwrap()];
        assert!(!tag.contains('<'), "a loose < before {tag}");
        assert!(tag.matches('"').count() % 2 == 0, "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{tag}");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "closed is {name}"),
            None if tag.ends_with('/') || VOID.contains(&name) => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
    for (i, _) in body.match_indices('&') {
        let entity = body[i + 1..].split(';').next().unwrap();
        assert!(entity.len() < 8 && !entity.contains(' '), "a loose & before {entity}");
    }
}

/// Complains of what a page loads from elsewhere, or runs.
fn check_alone(page: &str) {
    for word in ["src=", "href=", "url(", "@import", "<script", "<link", "<img", "<iframe"] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn a_page_is_whole_and_says_what_the_summary_says() {
    let dir = tempdir().unwrap();
    let mut cases: Vec<_> = (0..12).map(|i| case(i, 1, [0.0, f64::from(i % 4 != 0)])).collect();
    for (i, case) in cases.iter_mut().enumerate() {
        case.values.push(value("counterfact.em", [-0.25, i as f64 / 40.0]));
    }
    let summary = write(dir.path(), run("single", 3, "abc"), cases);
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    check_markup(&page);
    check_alone(&page);
    let on_disk: Value =
        serde_json::from_slice(&fs::read(dir.path().join("summary.json")).unwrap()).unwrap();
    assert_eq!(on_disk, summary);
    let metrics = summary["metrics"].as_object().unwrap();
    assert_eq!(metrics.len(), 2);
    for (name, metric) in metrics {
        let number =
            |field: &str| format!("{:.1}", metric[field].as_f64().unwrap()).replace('-', "−");
        let row = page.split(&format!("<tr><th>{name}</th>")).nth(1).unwrap();
        let row = row.split("</tr>").next().unwrap();
        for field in ["mean", "low", "high", "before"] {
            assert!(row.contains(&number(field)), "{name} {field}: {row}");
        }
        assert!(row.ends_with("<td class=\"n\">12</td>"), "{row}");
        assert!(
            page.contains(metric["definition"].as_str().unwrap().split(['>', '<']).next().unwrap())
        );
    }
    // 3 of 12 were not taken: each fourth.
    assert_eq!(summary["taken"], 9);
    assert!(page.contains("<p>3 of 12."), "{page}");
    for words in ["country 4 is", "says something else", "2.5 %", "5.0 %", "3.00 s", "7.00 MB"] {
        assert!(page.contains(words), "{words}");
    }
    for words in ["incise eval models&#x2f;small", "records.json, abc", "v_lr", "seed 3"] {
        assert!(page.contains(words), "{words}");
    }
}

#[test]
fn summaries_know_groups() {
    let dir = tempdir().unwrap();
    // Taken are the last six of twelve. The prompt of the third is asked again by the fifth.
    let mut cases: Vec<_> = (0..12).map(|i| case(i, 12, [0.0, f64::from(i >= 6)])).collect();
    cases[4].facts[0].prompt = cases[2].facts[0].prompt.clone();
    cases[11].facts[0].p_target[0] = 0.25;
    let summary = write(dir.path(), run("sequential", 0, "abc"), cases);
    let groups = |by: &str| -> Vec<(String, u64, f64)> {
        let rows = summary[by].as_array().unwrap().iter();
        rows.map(|row| {
            assert_eq!(row["success"][0]["metric"], "taken");
            assert_eq!(row["success"][1]["metric"], "counterfact.es");
            let mean = row["success"][0]["mean"].as_f64().unwrap();
            (row["group"].as_str().unwrap().to_owned(), row["cases"].as_u64().unwrap(), mean)
        })
        .collect()
    };
    let group = |name: &str, cases, mean| (name.to_owned(), cases, mean);
    assert_eq!(groups("by_relation"), [group("P17", 8, 50.0), group("P36", 4, 50.0)]);
    // Ages are 11 − place. The one overwritten has age 9; of the other eight of its bin four hold.
    assert_eq!(
        groups("by_age"),
        [
            group("at most 1 edit later", 2, 100.0),
            group("2 to 10 edits later", 8, 50.0),
            group("11 to 100 edits later", 1, 0.0),
        ]
    );
    assert_eq!(summary["overwritten"], 1);
    assert_eq!(
        groups("by_probability"),
        [group("0.1 to 1 %", 11, 100.0 * (5.0 / 11.0)), group("10 % and more", 1, 100.0)]
    );
    let ratio = summary["changes"][1]["ratio"].as_f64().unwrap();
    assert!((ratio - 2.0 / 40.0).abs() < 1e-12, "{ratio}");
    assert_eq!(summary["costs"][0]["seconds_each"], 3.0);
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("1 whose prompt a later case gives another target"));
    check_markup(&page);
}

#[test]
fn texts_of_others_are_no_markup() {
    const EVIL: &str = "\"><script>alert(1)</script> & '\u{202e}";
    let dirs = [tempdir().unwrap(), tempdir().unwrap()];
    let paths: Vec<_> = dirs.iter().map(|dir| dir.path().join("<b>&")).collect();
    for (seed, path) in paths.iter().enumerate() {
        let mut evil = case(0, 1, [0.0, 0.0]);
        let fact = &mut evil.facts[0];
        for text in [&mut fact.prompt, &mut fact.target_new, fact.relation.as_mut().unwrap()] {
            *text = EVIL.to_owned();
        }
        (fact.why, fact.target_true) = (Some(EVIL.to_owned()), Some(EVIL.to_owned()));
        (evil.id, evil.changes[0].matrix) = (EVIL.to_owned(), EVIL.to_owned());
        evil.values.push(value(&format!("portability.{EVIL}"), [0.0, 1.0]));
        let run = json!({
            "program": EVIL, "model": EVIL, "method": EVIL, "mode": EVIL, "seed": seed,
            "data": [{"file": EVIL, "fingerprint": EVIL}], EVIL: EVIL,
        });
        write(path, run, vec![evil]);
    }
    let page = fs::read_to_string(paths[0].join("report.html")).unwrap();
    let compared = report::comparison(&Comparison::read(&paths, 0).unwrap()).unwrap();
    for page in [page, compared] {
        check_markup(&page);
        assert!(!page.contains("<script") && !page.contains('\u{202e}'));
        assert!(page.contains("&lt;script&gt;") || page.contains("&lt;b&gt;"));
    }
}
