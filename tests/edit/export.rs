//! Patches as LoRA adapters, and the changed tensors in full.

use std::fs;
use std::path::Path;
use std::slice::from_ref;

use incise::Error;
use incise::base::DType;
use incise::base::progress::Quiet;
use incise::edit::apply::{PatchSide, in_place, to_file, to_folder};
use incise::edit::export::adapter::{Adapter, Module, RANKS, write};
use incise::store::{Change, Delta, Patch, RowBlocks, tensor_fingerprint};
use incise::tensor::Device;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::ops::update::{low_rank, random};
use crate::store::toy::{A, B, NORM, Toy, metadata, refusal, tensor};
use crate::support::budget::{U32, U64, on_one_and_two};
use crate::support::cancel::CancelAt;
use crate::support::session::{Session, done, fails, json, strs};

/// A change of layer `l`.
fn change(l: usize, [out, inner]: [usize; 2], delta: Delta) -> Change {
    Change {
        tensor: format!("h.{l}.mlp.c_proj.weight"),
        module: format!("transformer.h.{l}.mlp.c_proj"),
        rows: None,
        out,
        inner,
        fan_in_fan_out: true,
        fingerprint: tensor_fingerprint(b"bytes"),
        keys: None,
        delta,
    }
}

fn patch(changes: Vec<Change>) -> Patch {
    Patch { changes, metadata: metadata(), file: None }
}

fn adapter(changes: Vec<Change>, rank: Option<usize>) -> Adapter {
    Adapter::of(&patch(changes), rank, &Quiet).unwrap()
}

/// left · rightᵀ, or the dense change itself, in f64.
fn whole(c: &Change) -> Vec<f64> {
    let of = |o: usize, i: usize| match &c.delta {
        Delta::LowRank { left, right, r } => {
            (0..*r).map(|k| f64::from(left[o * r + k]) * f64::from(right[i * r + k])).sum()
        }
        Delta::Dense(delta) => f64::from(delta[o * c.inner + i]),
    };
    (0..c.out).flat_map(|o| (0..c.inner).map(move |i| (o, i))).map(|(o, i)| of(o, i)).collect()
}

/// B A, in f64.
fn product(m: &Module, r: usize) -> Vec<f64> {
    let of = |o: usize, i: usize| {
        (0..r).map(|k| f64::from(m.b[o * r + k]) * f64::from(m.a[k * m.inner + i])).sum()
    };
    (0..m.out).flat_map(|o| (0..m.inner).map(move |i| (o, i))).map(|(o, i)| of(o, i)).collect()
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    norm(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

/// The singular values of (rows, cols), largest first, by rotations of pairs of columns until all
/// are orthogonal (one-sided Jacobi): nothing in common with a reduction to two diagonals.
fn singular_values(matrix: &[f64], [rows, cols]: [usize; 2]) -> Vec<f64> {
    let column = |j: usize| (0..rows).map(|i| matrix[i * cols + j]).collect::<Vec<f64>>();
    let mut columns: Vec<Vec<f64>> = (0..cols).map(column).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for _sweep in 0..60 {
        let mut worst = 0.0f64;
        for p in 0..cols {
            for q in p + 1..cols {
                let [pp, qq, pq] =
                    [(p, p), (q, q), (p, q)].map(|(a, b)| dot(&columns[a], &columns[b]));
                if pq.abs() <= U64 * (pp * qq).sqrt() {
                    continue;
                }
                worst = worst.max(pq.abs() / (pp * qq).sqrt());
                let zeta = (qq - pp) / (2.0 * pq);
                let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let (c, s) = (1.0 / t.hypot(1.0), t / t.hypot(1.0));
                let (before, after) = columns.split_at_mut(q);
                for (x, y) in before[p].iter_mut().zip(&mut after[0]) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
        }
        if worst == 0.0 {
            break;
        }
    }
    let mut sigma: Vec<f64> = columns.iter().map(|c| norm(c)).collect();
    sigma.sort_by(|a, b| b.total_cmp(a));
    sigma
}

/// A change with a spectrum that falls by half each time, as factors far apart in size.
fn falling(out: usize, inner: usize, k: usize, seed: u64) -> Delta {
    let left = random(out * k, 1.0, seed);
    let falls = |(i, x)| x * 0.5f32.powi((i % k) as i32);
    Delta::LowRank {
        left: left.into_iter().enumerate().map(falls).collect(),
        right: random(inner * k, 1e-3, seed + 1),
        r: k,
    }
}

fn dense(c: &Change) -> Change {
    let delta = whole(c).into_iter().map(|x| x as f32).collect();
    Change { delta: Delta::Dense(delta), ..c.clone() }
}

/// Layers of different rank and size share one r; the products are those of the patch to the bit.
#[test]
fn factors_are_exact_padded_and_balanced() {
    let sizes = [([12, 20], 1), ([12, 20], 3), ([30, 11], 9)];
    let layers = sizes.iter().enumerate();
    let change = |(l, &(sides, k)): (usize, &([usize; 2], usize))| {
        let [out, inner] = sides;
        let left = random(out * k, 1e3, l as u64);
        change(l, sides, Delta::LowRank { left, right: random(inner * k, 1e-5, 9), r: k })
    };
    let changes: Vec<Change> = layers.map(change).collect();
    let adapter = adapter(changes.clone(), None);
    let r = adapter.rank;
    assert_eq!((r, adapter.fan_in_fan_out), (16, true));
    for (m, c) in adapter.modules.iter().zip(&changes) {
        let Delta::LowRank { left, right, r: k } = &c.delta else { unreachable!() };
        assert_eq!((m.rank, m.lost), (*k, 0.0));
        assert_eq!((m.a.len(), m.b.len()), (r * c.inner, c.out * r));
        for j in 0..r {
            let [mut long, mut short] = [0.0; 2];
            for o in 0..c.out {
                for i in 0..c.inner {
                    let [a, b] = [m.a[j * c.inner + i], m.b[o * r + j]].map(f64::from);
                    let want = match j < *k {
                        true => f64::from(left[o * k + j]) * f64::from(right[i * k + j]),
                        false => 0.0,
                    };
                    assert_eq!((a * b).to_bits(), want.to_bits(), "{} {o} {i} {j}", m.tensor);
                }
            }
            (0..c.out).for_each(|o| long += f64::from(m.b[o * r + j]).powi(2));
            (0..c.inner).for_each(|i| short += f64::from(m.a[j * c.inner + i]).powi(2));
            match j < *k {
                true => assert!((0.5..=2.0).contains(&(long / short).sqrt()), "{long} {short}"),
                false => assert_eq!((long, short), (0.0, 0.0)),
            }
        }
    }
}

#[test]
fn the_rank_is_the_smallest_that_holds_the_patch() {
    let of = |k: usize| change(0, [520, 520], low_rank(520, 520, k, 1.0, 1));
    let above = [(256, 256), (257, 320), (320, 320), (321, 512), (512, 512)];
    for (k, want) in [(1, 8), (8, 8), (9, 16), (128, 128), (129, 256)].into_iter().chain(above) {
        let found = adapter(vec![change(1, [9, 9], low_rank(9, 9, 1, 1.0, 2)), of(k)], None);
        assert_eq!((found.rank, found.modules[1].lost), (want, 0.0), "{k}");
    }
    let cut = adapter(vec![of(513)], None);
    assert!(cut.rank == 512 && cut.modules[0].lost > 0.0);
    assert_eq!(adapter(vec![of(3)], Some(64)).rank, 64);
    assert_eq!(adapter(vec![change(0, [9, 30], Delta::Dense(vec![1.0; 270]))], None).rank, 16);
    // q, k and v of one tensor: what they share counts once.
    let third = |i: usize, inner: usize, delta: Delta| Change {
        rows: Some(RowBlocks { start: 20 * i, len: 20, period: 60, count: 1 }),
        ..change(0, [20, inner], delta)
    };
    let same = |i: usize, right: u64| {
        let Delta::LowRank { left, .. } = low_rank(20, 40, 8, 1.0, i as u64) else { panic!() };
        let Delta::LowRank { right, r, .. } = low_rank(20, 40, 8, 1.0, right) else { panic!() };
        third(i, 40, Delta::LowRank { left, right, r })
    };
    let dense = |i: usize| third(i, 12, Delta::Dense(random(20 * 12, 1.0, i as u64)));
    for (changes, want, rank) in [
        ([0, 1, 2].map(|i| same(i, 9)), 8, 8),
        ([0, 1, 2].map(|i| same(i, 9 + i as u64)), 32, 24),
        ([0, 1, 2].map(dense), 16, 12),
    ] {
        let found = adapter(changes.to_vec(), None);
        let m = &found.modules[0];
        assert_eq!((found.rank, m.rank, m.lost), (want, rank, 0.0));
        let (got, stacked) = (product(m, found.rank), changes.iter().flat_map(whole));
        let most = stacked.clone().fold(0.0f64, |most, x| most.max(x.abs()));
        for (got, want) in got.into_iter().zip(stacked) {
            assert!((got - want).abs() <= 64.0 * U32 * most, "{got} {want}");
        }
    }
    for rank in [0, 1, 7, 12, 513] {
        let why = refusal(Adapter::of(&patch(vec![of(3)]), Some(rank), &Quiet));
        assert!(why.contains(&format!("{RANKS:?}")), "{why}");
    }
}

/// A cut change is the nearest of its rank: it is as far off as the singular values, found another
/// way, say that any must be; and that is what is reported.
#[test]
fn a_cut_change_is_the_nearest() {
    for (sides, k) in [([20, 31], 13), ([31, 20], 20), ([24, 24], 9)] {
        let factors = change(0, sides, falling(sides[0], sides[1], k, 5));
        for c in [factors.clone(), dense(&factors)] {
            let delta = whole(&c);
            let sigma = singular_values(&delta, sides);
            let m = &adapter(vec![c], Some(8)).modules[0];
            let (lost, energy) = (norm(&sigma[8..]), norm(&delta));
            // Three factorisations, each off by a few units for every row and column of its input.
            let solved = 3.0 * 8.0 * (sides[0] + sides[1]) as f64 * U64 * energy;
            // A product of factors of norm √Σσ, each rounded to f32 once.
            let rounded = 2.0 * (1.0 + U32) * U32 * sigma[..8].iter().sum::<f64>();
            let off = apart(&delta, &product(m, 8));
            assert!((off - lost).abs() <= solved + rounded, "{sides:?}: {off:e}, not {lost:e}");
            assert!((m.lost * energy - lost).abs() <= solved, "{:e}, not {lost:e}", m.lost);
            assert!(lost > 1e3 * (solved + rounded), "{sides:?}: the case cuts nothing off");
        }
    }
}

#[test]
fn a_dense_change_of_few_rows_loses_nothing() {
    let c = change(0, [7, 30], Delta::Dense(random(210, 0.1, 3)));
    let delta = whole(&c);
    let found = adapter(vec![c], None);
    let (m, sigma) = (&found.modules[0], singular_values(&delta, [7, 30]));
    assert_eq!((found.rank, m.lost), (8, 0.0));
    let solved = 8.0 * 37.0 * U64 * norm(&delta);
    let budget = 2.0 * (1.0 + U32) * U32 * sigma.iter().sum::<f64>() + solved;
    let off = apart(&delta, &product(m, 8));
    assert!(off <= budget, "{off:e} > {budget:e}");
}

#[test]
fn changes_of_nothing() {
    let zero =
        |k: usize| Delta::LowRank { left: vec![0.0; 20 * k], right: vec![1.0; 20 * k], r: k };
    for kind in [zero(1), zero(12), Delta::Dense(vec![0.0; 400])] {
        let m = &adapter(vec![change(0, [20, 20], kind)], Some(8)).modules[0];
        assert_eq!(m.lost, 0.0);
        assert!(product(m, 8).iter().all(|x| *x == 0.0));
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let factors = change(0, [300, 410], falling(300, 410, 90, 7));
    let all = [factors.clone(), Change { tensor: "dense".into(), ..dense(&factors) }];
    on_one_and_two("adapter", || adapter(all.to_vec(), Some(32)));
}

#[test]
fn patches_that_make_no_adapter() {
    let [one, two] = [0, 1].map(|l| change(l, [5, 5], low_rank(5, 5, 1, 1.0, 1)));
    let why = |changes: Vec<Change>| refusal(Adapter::of(&patch(changes), None, &Quiet));
    let mixed = why(vec![one.clone(), Change { fan_in_fan_out: false, ..two.clone() }]);
    assert!(mixed.contains(&two.tensor) && mixed.contains("fan_in_fan_out"), "{mixed}");
    assert!(mixed.contains("write the tensors in full"), "{mixed}");
    let nameless = why(vec![Change { module: String::new(), ..one.clone() }]);
    assert!(nameless.contains(&one.tensor) && nameless.contains("no module"), "{nameless}");
    assert!(why(vec![]).contains("changes nothing"));
    // The largest singular value is 240 MAX², and a vector of 20 equal numbers has it in its root.
    let huge = Delta::LowRank { left: vec![f32::MAX; 240], right: vec![f32::MAX; 240], r: 12 };
    let huge = patch(vec![change(0, [20, 20], huge)]);
    let huge = refusal(Adapter::of(&huge, Some(8), &Quiet));
    assert!(huge.contains("do not fit F32"), "{huge}");
    // Two tensors of one module: PEFT has one place for both.
    let temp = tempfile::tempdir().unwrap();
    let twice = patch(vec![one.clone(), Change { module: one.module, ..two }]);
    let out = temp.path().join("adapter");
    let twice = refusal(write(&twice, None, None, &out, &Quiet));
    assert!(twice.contains("two tensors of this name"), "{twice}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "something is left");
}

fn read_config(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("adapter_config.json")).unwrap()).unwrap()
}

#[test]
fn the_folder_has_what_peft_reads() {
    let temp = tempfile::tempdir().unwrap();
    let changes = vec![
        change(2, [5, 9], low_rank(5, 9, 1, 1.0, 1)),
        change(11, [5, 9], low_rank(5, 9, 2, 1.0, 2)),
    ];
    let out = temp.path().join("new/adapter");
    let written = write(&patch(changes), None, Some("base"), &out, &Quiet).unwrap();
    let config = read_config(&out);
    let modules = ["transformer.h.2.mlp.c_proj", "transformer.h.11.mlp.c_proj"];
    for (field, want) in [
        ("peft_type", json!("LORA")),
        ("r", json!(8)),
        ("lora_alpha", json!(8)),
        ("bias", json!("none")),
        ("fan_in_fan_out", json!(true)),
        ("target_modules", json!(modules)),
        ("base_model_name_or_path", json!("base")),
        ("rank_pattern", json!({})),
        ("alpha_pattern", json!({})),
    ] {
        assert_eq!(config[field], want, "{field}");
    }
    let bytes = fs::read(out.join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 4);
    for (m, module) in written.modules.iter().zip(modules) {
        for (side, shape, values) in [("A", [8, 9], &m.a), ("B", [5, 8], &m.b)] {
            let name = format!("base_model.model.{module}.lora_{side}.weight");
            let found = file.tensor(&name).unwrap();
            assert_eq!(found.shape(), shape, "{name}");
            assert_eq!(found.data(), bytemuck::cast_slice::<f32, u8>(values), "{name}");
        }
    }
    let again = refusal(write(&patch(vec![]), None, None, &out, &Quiet));
    assert!(again.contains("is there and not empty"), "{again}");
    assert_eq!(fs::read_dir(temp.path().join("new")).unwrap().count(), 1, "something is left");
}

/// A change of a toy's tensor, for the bytes it has.
fn fitting(toy: &Toy, name: &str, fan_in_fan_out: bool, seed: u64) -> Change {
    Change {
        tensor: name.into(),
        module: name.trim_end_matches(".weight").into(),
        fan_in_fan_out,
        fingerprint: tensor_fingerprint(&tensor(&toy.dir, name)),
        ..change(0, [7, 5], low_rank(7, 5, 2, 0.1, seed))
    }
}

/// Names, types, shapes and bytes of the tensors of a file.
fn tensors(file: &Path) -> Vec<(String, String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(file).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let all = file.iter().map(|(name, t)| {
        (name.to_owned(), format!("{:?}", t.dtype()), t.shape().to_vec(), t.data().to_vec())
    });
    let mut all: Vec<_> = all.collect();
    all.sort();
    all
}

/// The file has the changed tensors alone, with the bytes a new folder has; also where a patch was
/// applied in place before, and the sum is rounded once from the first weights.
#[test]
fn tensors_in_full_are_those_of_a_new_folder() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (toy, stored, flag) in
            [(Toy::sharded(dtype), [7, 5], false), (Toy::new(dtype, [5, 7]), [5, 7], true)]
        {
            let (out, file) = (toy.beside("out"), toy.beside("full.safetensors"));
            let of = |name, seed| fitting(&toy, name, flag, seed);
            let first = patch(vec![of(A, 1), of(B, 2)]);
            let reports = [
                to_folder(&toy.dir, from_ref(&first), &out, &Device::Cpu, &Quiet).unwrap(),
                to_file(&toy.dir, from_ref(&first), PatchSide::After, &file, &Device::Cpu, &Quiet)
                    .unwrap(),
            ];
            assert_eq!(reports[0], reports[1]);
            let want = |name: &str| {
                (name.to_owned(), dtype.name().to_owned(), stored.to_vec(), tensor(&out, name))
            };
            assert_eq!(tensors(&file), [want(A), want(B)], "{dtype:?}");
            in_place(&toy.dir, from_ref(&first), &Device::Cpu, &Quiet).unwrap();
            let second = patch(vec![fitting(&toy, A, flag, 3)]);
            fs::remove_dir_all(&out).unwrap();
            to_folder(&toy.dir, from_ref(&second), &out, &Device::Cpu, &Quiet).unwrap();
            to_file(&toy.dir, from_ref(&second), PatchSide::After, &file, &Device::Cpu, &Quiet)
                .unwrap();
            let want = (A.into(), dtype.name().into(), stored.to_vec(), tensor(&out, A));
            assert_eq!(tensors(&file), [want], "{dtype:?}");
        }
    }
}

/// What is cut off or refused leaves the file that was there, and nothing else.
#[test]
fn a_file_is_whole_or_as_it_was() {
    let toy = Toy::new(DType::F16, [7, 5]);
    let (file, change) = (toy.beside("full.safetensors"), fitting(&toy, A, false, 1));
    fs::write(&file, "old").unwrap();
    let holds_old = || {
        assert_eq!(fs::read(&file).unwrap(), b"old");
        assert_eq!(fs::read_dir(toy.temp.path()).unwrap().count(), 2, "something is left");
    };
    let refused = |spoil: &dyn Fn(&mut Change), words: &str| {
        let mut patch = patch(vec![change.clone()]);
        spoil(&mut patch.changes[0]);
        let why =
            refusal(to_file(&toy.dir, &[patch], PatchSide::After, &file, &Device::Cpu, &Quiet));
        assert!(why.contains(words), "{why:?} does not say {words:?}");
        holds_old();
    };
    refused(&|c| c.fingerprint = "0".into(), "patch 1 is for 0");
    refused(&|c| c.tensor = NORM.into(), "has the shape [7]");
    refused(&|c| c.delta = Delta::Dense(vec![1e5; 35]), "35 values do not fit F16");
    for n in 1.. {
        let stop = CancelAt::question(n);
        match to_file(
            &toy.dir,
            &[patch(vec![change.clone()])],
            PatchSide::After,
            &file,
            &Device::Cpu,
            &stop,
        ) {
            Err(Error::Interrupted { .. }) => holds_old(),
            done => {
                done.unwrap();
                assert!(n > 2, "{n}: never asked");
                break;
            }
        }
    }
    assert_eq!(tensors(&file).len(), 1);
    let folder = toy.beside("adapter");
    let stop = CancelAt::question(1);
    let stopped = write(&patch(vec![change]), None, None, &folder, &stop);
    assert!(matches!(stopped, Err(Error::Interrupted { .. })) && !folder.exists());
}

#[test]
fn a_session_exports_both_ways() {
    for (name, flag) in [("gpt2", true), ("llama-tied", false)] {
        let s = Session::new(name);
        s.stats();
        done(&strs(&s.edit(&[])));
        let (model, file) = (s.at("model"), s.at("patch.safetensors"));
        let patch = Patch::read(Path::new(&file)).unwrap();
        let (dir, full, copy) = (s.at("adapter"), s.at("full.safetensors"), s.at("copy"));
        let told = json(&["export", &file, "--lora", &dir, "--model", &model, "--json"]);
        let module = &told["modules"][0];
        assert_eq!((&told["rank"], &told["alpha"]), (&json!(8), &json!(8)));
        assert_eq!((&module["rank"], &module["lost"]), (&json!(1), &json!(0.0)));
        assert_eq!(module["module"], patch.changes[0].module);
        let config = read_config(Path::new(&dir));
        assert_eq!(config["fan_in_fan_out"], flag);
        assert_eq!(config["base_model_name_or_path"], model);

        done(&["apply", &model, &file, "-o", &copy]);
        done(&["export", &file, "--delta", &full, "--model", &model]);
        let tensors = tensors(Path::new(&full));
        let [(name, .., bytes)] = &tensors[..] else { panic!("{tensors:?}") };
        assert_eq!(*bytes, tensor(Path::new(&copy), name));

        let said = done(&["export", &file, "--lora", &s.at("b"), "--rank", "32"]);
        assert!(said.contains("rank 1 in 32, lost 0 % of Δ") && said.contains("r = alpha = 32"));
        let taken = fails(1, &["export", &file, "--lora", &dir]);
        assert!(taken.contains("adapter: folder: is there and not empty"), "{taken}");
        let edited = fails(1, &["export", &file, "--lora", &s.at("c"), "--model", &copy]);
        assert!(edited.contains(&format!("and {file} is for")), "{edited}");
        let edited = fails(1, &["export", &file, "--delta", &full, "--model", &copy]);
        assert!(edited.contains(&format!("and {file} is for")), "{edited}");
        for over in ["patch.safetensors", "model/model.safetensors", "model/new"] {
            let why = fails(1, &["export", &file, "--delta", &s.at(over), "--model", &model]);
            assert!(why.contains("over what the command reads"), "{why}");
        }
        let over = fails(1, &["export", &file, "--lora", &file]);
        assert!(over.contains("is there and not empty"), "{over}");
        assert_eq!(Patch::read(Path::new(&file)).unwrap(), patch);
    }
}

#[test]
fn a_cut_is_said() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).display().to_string();
    let cut = change(0, [20, 30], falling(20, 30, 12, 1));
    patch(vec![cut]).write(Path::new(&at("patch"))).unwrap();
    let args = ["export", &at("patch"), "--lora", &at("adapter"), "--rank", "8"];
    let out = crate::support::session::incise(&args);
    let said = crate::support::session::text(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert!(said.contains("rank 12 was cut to 8") && said.contains("larger --rank"), "{said}");
    assert!(!crate::support::session::text(&out.stdout).contains("lost 0 %"));
    for args in [
        &["export", "p"][..],
        &["export", "p", "--lora", "d", "--delta", "f", "--model", "m"],
        &["export", "p", "--delta", "f"],
        &["export", "p", "--delta", "f", "--model", "m", "--rank", "8"],
        &["export", "p", "--lora", "d", "--rank", "7"],
        &["export", "p", "--lora", "d", "--rank", "x"],
    ] {
        fails(2, args);
    }
}
