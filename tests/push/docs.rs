//! docs/servers.md has the table of benches/results/servers-cpu.json, which tools/check_servers
//! writes.

use std::fs;

use serde_json::Value;

use crate::support::root;

const BEGIN: &str =
    "<!-- servers: `INCISE_WRITE_DOCS=1 cargo test --release docs::` writes them -->\n";
const END: &str = "<!-- end of servers -->\n";

/// What was checked of each server, and what was found.
fn table() -> String {
    let path = root().join("benches/results/servers-cpu.json");
    let Ok(text) = fs::read_to_string(path) else { return "Not measured yet.\n".to_owned() };
    let all: Value = serde_json::from_str(&text).unwrap();
    let mut table = "| server | checked | found |\n| --- | --- | --- |\n".to_owned();
    for line in all["checks"].as_array().unwrap() {
        assert_eq!(line["ok"], true, "{line}");
        let [server, check] = ["server", "check"].map(|key| line[key].as_str().unwrap());
        let found = match &line["found"] {
            Value::Bool(true) => "yes".to_owned(),
            Value::Array(numbers) => {
                numbers.iter().map(Value::to_string).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        let package = all["packages"][server].as_str().unwrap();
        table += &format!("| {package} | {check} | {found} |\n");
    }
    let commit = all["commit"].as_str().unwrap();
    table += &format!("\nMeasured at {commit} on two cores of {}.\n", all["processor"]);
    table.replace('"', "")
}

#[test]
fn the_page_of_servers_has_what_was_measured() {
    let path = root().join("docs/servers.md");
    let page = fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).unwrap();
    let (found, tail) = rest.split_once(END).unwrap();
    if std::env::var_os("INCISE_WRITE_DOCS").is_some() {
        fs::write(&path, [head, BEGIN, &table(), END, tail].concat()).unwrap();
        return;
    }
    assert!(found == table(), "docs/servers.md is old: the page says how to write it again");
}
