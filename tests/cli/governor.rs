//! What a model may carry, by the command line.

use incise::store::Patch;

use crate::support::session::{Session, done, fails, json, strs};

#[test]
fn a_patch_that_breaks_the_model_is_refused_before_anything_is_written() {
    let s = Session::new("gpt2");
    s.stats();
    done(&strs(&s.edit(&[])));
    let (model, file) = (s.at("model"), s.at("patch.safetensors"));
    let mut patch = Patch::read(file.as_ref()).unwrap();
    (patch.metadata.method, patch.metadata.facts) = ("rome".into(), 40);
    patch.write(file.as_ref()).unwrap();
    let (apply, before) = (["apply", &model, &file, "--in-place"], s.weights("model"));
    let refused = fails(1, &[&apply[..], &["--refuse-past", "strained"]].concat());
    for part in ["would be strained", "40 facts", "‖ΣΔ‖/‖W‖", "2210.07229", "undo earlier"]
    {
        assert!(refused.contains(part), "{refused}");
    }
    assert!(s.weights("model") == before, "was written");
    let carried = || json(&["inspect", &model, "--json"])["carried"].clone();
    assert_eq!((&carried()["facts"], &carried()["strain"]), (&0.into(), &"light".into()));
    done(&[&apply[..], &["--refuse-past", "broken"]].concat());
    assert_eq!((&carried()["facts"], &carried()["strain"]), (&40.into(), &"strained".into()));
    assert!(done(&["inspect", &model]).contains("strained"));
}
