//! A device proves itself: known answers of every kernel, and what is found where one is wrong.

use std::time::Instant;

use incise::ops::proof::known_answers;

use crate::support::twin;

#[test]
fn every_kernel_gives_what_it_should() {
    let test = "gpu::proof::every_kernel_gives_what_it_should";
    let Some(engine) = twin::engine(test) else { return };
    let mut wrong = Vec::new();
    for known in known_answers() {
        let began = Instant::now();
        wrong.extend(known.ask(&engine).map(|fault| fault.to_string()));
        println!("{} {:?}: {:.0?}", known.file, known.types, began.elapsed());
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
