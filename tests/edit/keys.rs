//! What patches say of the keys of their facts.

use std::fs;

use faer::Mat;
use incise::linalg::Cholesky;
use incise::stats::Moment;
use incise::store::{Change, Delta, Patch};

use crate::support::session::{Session, done, strs};

/// For methods of many facts.
const TWO_LAYERS: [&str; 4] = ["--set", "layers=[0,1]", "--set", "mom2_update_weight=20"];

/// Three facts of three subjects, by a method.
fn patch(s: &Session, method: &str, more: &[&str]) -> Patch {
    let mut args = s.edit(more);
    let at = args.iter().position(|arg| arg == "--method").unwrap();
    args[at + 1] = method.to_owned();
    done(&strs(&args));
    Patch::read(s.at("patch.safetensors").as_ref()).unwrap()
}

fn session() -> Session {
    let s = Session::new("gpt2");
    s.stats();
    let line = |(subject, target): (&str, &str)| {
        format!(
            "{{\"prompt\": \"{{}} is in\", \"subject\": \"{subject}\", \
             \"target_new\": \"{target}\"}}\n"
        )
    };
    let facts = [("Big Ben", "Paris"), ("The sea", "Rome"), ("Nothing", "Oslo")].map(line);
    fs::write(s.at("requests.jsonl"), facts.concat()).unwrap();
    s
}

fn wide(values: &[f32], rows: usize) -> Mat<f64> {
    let n = values.len() / rows;
    Mat::from_fn(rows, n, |i, j| values[i * n + j].into())
}

/// How much of K lies outside the span of the columns of A, as a part of it.
fn outside(k: &Mat<f64>, a: &Mat<f64>) -> f64 {
    let along = Cholesky::of(a.transpose() * a).unwrap().solve(a.transpose() * k);
    (k - a * along).norm_l2() / k.norm_l2()
}

/// The keys of the lowest edited layer are the same however facts are edited. C times the right
/// factor of MEMIT spans them, in f32; edits in batches carry them, and so does EMMET where the
/// size of the change has a weight.
#[test]
fn factors_span_the_keys_or_the_patch_carries_them() {
    let s = session();
    let memit = patch(&s, "memit", &TWO_LAYERS);
    let first: &Change = &memit.changes[0];
    assert!(memit.changes.iter().all(|c| c.keys.is_none() && c.keys_follow(&memit.metadata)));
    let Delta::LowRank { right, .. } = &first.delta else { panic!("a change in factors") };
    let moment = Moment::open(s.at("stats").as_ref(), 0).unwrap();
    let c = wide(&moment.second_moment, moment.f);
    let spanned = &c * wide(right, moment.f);
    for (method, more) in
        [("memit", &["--sequential", "1"][..]), ("emmet", &["--set", "update_norm_lambda=0.1"])]
    {
        let carries = patch(&s, method, &[&TWO_LAYERS, more].concat());
        for change in &carries.changes {
            assert!(!change.keys_follow(&carries.metadata), "{method}");
            assert_eq!(change.keys.as_ref().map(|keys| keys.n), Some(3), "{method}");
        }
        let k = wide(&carries.changes[0].keys.as_ref().unwrap().values, moment.f);
        assert!(outside(&k, &spanned) < 1e-3, "{method}: {}", outside(&k, &spanned));
        let other = Mat::from_fn(moment.f, 1, |i, _| if i % 3 == 0 { 1.0 } else { -0.5 });
        assert!(outside(&other, &spanned) > 0.1);
    }
}

/// ROME's keys do not follow where C does not shape the change.
#[test]
fn a_change_without_c() {
    let s = session();
    let rome = patch(&s, "rome", &[]);
    assert!(rome.changes[0].keys_follow(&rome.metadata) && rome.changes[0].keys.is_none());
    let rome = patch(&s, "rome", &["--set", "mom2_adjustment=false"]);
    assert!(!rome.changes[0].keys_follow(&rome.metadata));
    assert_eq!(rome.changes[0].keys.as_ref().map(|keys| keys.n), Some(3));
}
