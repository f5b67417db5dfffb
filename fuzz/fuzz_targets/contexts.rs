//! A contexts file is refused, or begins with the bare prompt, has one place in each context, and
//! is what is read back after it was written.
#![no_main]

use incise::data::Contexts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(contexts) = Contexts::parse("x", bytes) else { return };
    assert_eq!(contexts.flat()[0], "{}");
    assert!(contexts.flat().iter().all(|c| c.matches("{}").count() == 1));
    let again = contexts.to_json().to_string();
    assert_eq!(Contexts::parse("again", again.as_bytes()).expect("our own"), contexts);
});
