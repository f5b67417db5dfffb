//! A request file is refused, or its requests keep what `Fact` promises and survive being
//! written as our own records.
#![no_main]

use incise::data::request::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(requests) = parse("x", bytes) else { return };
    let mut text = String::new();
    for request in &requests {
        assert_eq!(request.prompt.matches("{}").count(), 1);
        assert_eq!(request.subject.trim(), request.subject);
        assert!(!request.subject.is_empty() && !request.target_new.trim().is_empty());
        text += &serde_json::to_string(request).expect("strings and lists");
        text.push('\n');
    }
    assert_eq!(parse("again", text.as_bytes()).expect("our own records"), requests);
});
