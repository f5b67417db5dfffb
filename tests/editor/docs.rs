//! docs/methods.md is made of what methods say of themselves.

use std::fs;

use incise::edit::methods::markdown;

use crate::support::root;

const HEAD: &str = "\
# Methods

Made from the methods' own files in `src/edit/methods/`; `incise methods` prints the same.
`INCISE_WRITE_DOCS=1 cargo test --release docs::` writes this page again.
[survey.md](survey.md) compares them as the survey does, [accuracy.md](accuracy.md) has one fact,
many at once and one upon the other.

";

#[test]
fn the_page_of_methods_is_what_methods_say() {
    let page = root().join("docs/methods.md");
    let want = HEAD.to_owned() + &markdown();
    if std::env::var_os("INCISE_WRITE_DOCS").is_some() {
        fs::write(&page, &want).unwrap();
    }
    let found = fs::read_to_string(&page).unwrap_or_default();
    assert!(found == want, "docs/methods.md is old: the page says how to write it again");
}
