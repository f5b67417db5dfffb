//! incise.h is what cbindgen makes of the sources.

use std::fs;
use std::path::Path;

use cbindgen::{Builder, Config};

const SOURCES: [&str; 6] = ["lib", "error", "progress", "editor", "edit", "tensors"];
const COLUMNS: usize = 100;

#[test]
fn the_header_is_what_the_sources_say() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = Config::from_file(crate_folder.join("cbindgen.toml")).unwrap();
    let builder = Builder::new().with_src(crate_folder.join("src/lib.rs"));
    let mut want = Vec::new();
    builder.with_config(config).generate().unwrap().write(&mut want);
    let want = String::from_utf8(want).unwrap();
    let header = crate_folder.join("incise.h");
    if std::env::var_os("INCISE_WRITE_DOCS").is_some() {
        fs::write(&header, &want).unwrap();
    }
    let found = fs::read_to_string(&header).unwrap_or_default();
    let how = "INCISE_WRITE_DOCS=1 cargo test --release -p incise -p incise-capi --test header";
    assert!(found == want, "capi/incise.h is old: write it again by {how}");
    // A function that is not there is one that cbindgen did not see.
    for name in SOURCES {
        let text = fs::read_to_string(crate_folder.join(format!("src/{name}.rs"))).unwrap();
        for function in text.lines().filter_map(|line| line.split("extern \"C\" fn incise_").nth(1))
        {
            let name = function.split('(').next().unwrap();
            assert!(want.contains(&format!("incise_{name}(")), "incise_{name} is missing");
        }
    }
    let long: Vec<&str> = want.lines().filter(|line| line.chars().count() > COLUMNS).collect();
    assert!(long.is_empty(), "{long:#?}");
}
