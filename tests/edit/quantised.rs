//! Patches into quantised GGUF files: what changes, what does not, and what keys lose.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use faer::Mat;
use half::f16;
use incise::base::progress::Quiet;
use incise::base::{DType, Rng};
use incise::edit::apply::{log, undo};
use incise::edit::quantised::{RoundedTensor, Rounding, in_place, to_file};
use incise::linalg::Cholesky;
use incise::model::change::dense;
use incise::stats::{Input, Moment, Origin};
use incise::store::disk::Os;
use incise::store::gguf::{BlockType, GgufFile, Step};
use incise::store::place::check_place;
use incise::store::record::{FileIdentity, FileRange, Head, LogEntry, Record, checksum};
use incise::store::{Change, Delta, FactKeys, Patch, tensor_fingerprint};
use serde_json::json;
use tempfile::TempDir;

use crate::store::toy::{metadata, refusal};
use crate::support::gguf::GgufWriter;

const NAME: &str = "blk.3.ffn_down.weight";
const OUT: usize = 6;
const IN: usize = 256;
/// What the statistics of a case are of.
const SOURCE: &str = "768 tokens of text, 8 at a time, of the model 4567";

/// Where the types have their scales and offsets in half precision.
const HALVES: [(&str, &[usize]); 10] = [
    ("Q4_0", &[0]),
    ("Q4_1", &[0, 2]),
    ("Q5_0", &[0]),
    ("Q5_1", &[0, 2]),
    ("Q8_0", &[0]),
    ("Q2_K", &[80, 82]),
    ("Q3_K", &[108]),
    ("Q4_K", &[0, 2]),
    ("Q5_K", &[0, 2]),
    ("Q6_K", &[208]),
];

/// A file in a folder of its own, statistics of its layer, and keys.
struct Case {
    temp: TempDir,
    file: PathBuf,
    c: Mat<f64>,
    k: Mat<f64>,
}

/// Blocks of anything, with scales near 0.01.
fn blocks(kind: &str, elements: usize, rng: &mut Rng) -> Vec<u8> {
    let kind = BlockType::by_name(kind).unwrap();
    let mut bytes: Vec<u8> =
        (0..kind.size(&[elements]).unwrap()).map(|_| (rng.uniform() * 256.0) as u8).collect();
    let halves = HALVES.iter().find(|(name, _)| *name == kind.name).unwrap().1;
    for block in bytes.chunks_exact_mut(kind.bytes) {
        for &at in halves {
            let value = f16::from_f64(0.01 + 0.005 * rng.uniform());
            block[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

impl Case {
    fn new(kind: &str, n: usize) -> Case {
        let mut rng = Rng::new(21, kind);
        let data = match BlockType::by_name(kind).unwrap().grid() {
            Some(_) => blocks(kind, OUT * IN, &mut rng),
            None => {
                let values: Vec<f64> = (0..OUT * IN).map(|_| 0.1 * rng.normal()).collect();
                let mut bytes = Vec::new();
                let dtype = [DType::F32, DType::F16, DType::BF16].into_iter();
                dtype.filter(|d| d.name() == kind).for_each(|d| d.narrow(&values, &mut bytes));
                bytes
            }
        };
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("model").join("model.gguf");
        fs::create_dir(file.parent().unwrap()).unwrap();
        let other = [0x3c; 4 * 32];
        let mut writer = GgufWriter::new();
        writer.text("general.architecture", "llama").tensor("before", &[32], "F32", &other);
        writer.tensor(NAME, &[OUT, IN], kind, &data).tensor("behind", &[32], "F32", &other);
        fs::write(&file, writer.bytes()).unwrap();
        let mut normal = |rows: usize, columns| Mat::from_fn(rows, columns, |_, _| rng.normal());
        let text = normal(IN, 3 * IN);
        let c = &text * text.transpose() * faer::Scale(1.0 / (3 * IN) as f64);
        let k = normal(IN, n);
        let second_moment = (0..IN * IN).map(|i| c[(i / IN, i % IN)] as f32).collect();
        let [model, corpus] = ["4567", "text"].map(String::from);
        let origin = Origin { model, corpus, context_length: 8, normed: false };
        let (input, tokens) = (Input::Key, 3 * IN as u64);
        let moment = Moment { layer: 3, input, f: IN, tokens, second_moment, origin, part: None };
        moment.write(&temp.path().join("stats")).unwrap();
        Case { temp, file, c, k }
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.file).unwrap()
    }

    /// W (OUT, IN), as the file has it now.
    fn w(&self, file: &Path) -> Vec<f64> {
        let gguf = GgufFile::open(file).unwrap();
        let mut w = vec![0.0f32; OUT * IN];
        gguf.rows(gguf.header().tensor(NAME).unwrap(), 0, &mut w).unwrap();
        w.into_iter().map(f64::from).collect()
    }

    /// How far neighbours on the grid of the file are apart, as a root of a mean square.
    fn quantum(&self) -> f64 {
        let gguf = GgufFile::open(&self.file).unwrap();
        let tensor = gguf.header().tensor(NAME).unwrap();
        let Some(grid) = tensor.kind.grid() else { return 0.01 };
        let (mut steps, mut codes) = (vec![Step::default(); grid.groups()], vec![0; grid.elements]);
        let mut squares = Vec::new();
        for block in gguf.bytes(tensor).chunks_exact(grid.bytes) {
            grid.read(block, &mut steps, &mut codes);
            squares.extend(steps.iter().map(|step| f64::from(step.scale).powi(2)));
        }
        (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
    }

    /// A patch that gives each key a value of its own, as EMMET does; planned on an import of the
    /// file in BF16. Of size 1 it is about as large as the rounding of a text's share:
    ///
    /// ```text
    /// ‖E‖_C² = F q²/12 a row for C near I       ‖Δ‖_C² = n r²/F for keys of length √F, values r
    /// ```
    fn patch(&self, size: f64, seed: u64) -> Patch {
        let mut rng = Rng::new(seed, "patch");
        let n = self.k.ncols();
        let r = size * self.quantum() * IN as f64 / (12.0 * n as f64).sqrt();
        let y = Cholesky::of(self.c.clone()).unwrap().solve(self.k.clone());
        let s = self.k.transpose() * &y;
        let x = &y * Cholesky::of(s).unwrap().solve(Mat::identity(n, n));
        let left: Vec<f32> = (0..OUT * n).map(|_| (r * rng.normal()) as f32).collect();
        let right: Vec<f32> = (0..IN * n).map(|i| x[(i / n, i % n)] as f32).collect();
        let factors = Delta::LowRank { left, right, r: n };
        let (delta, keys) = if n <= OUT {
            (factors, None)
        } else {
            let whole = dense(&factors, [OUT, IN]).into_iter().map(|x| x as f32);
            (Delta::Dense(whole.collect()), Some(self.keys()))
        };
        let mut bytes = Vec::new();
        DType::BF16.narrow(&self.w(&self.file), &mut bytes);
        let change = Change {
            tensor: "model.layers.3.mlp.down_proj.weight".into(),
            module: "model.layers.3.mlp.down_proj".into(),
            rows: None,
            out: OUT,
            inner: IN,
            fan_in_fan_out: false,
            fingerprint: tensor_fingerprint(&bytes),
            delta,
            keys,
        };
        let mut metadata = metadata();
        metadata.notes = json!({"keys": "factors", "statistics": {"3": SOURCE}});
        Patch { changes: vec![change], metadata, file: None }
    }

    /// K as a patch has it.
    fn keys(&self) -> FactKeys {
        let n = self.k.ncols();
        FactKeys { values: (0..IN * n).map(|i| self.k[(i / n, i % n)] as f32).collect(), n }
    }

    /// A copy of the file with a patch, the worst key's loss there, and the report.
    fn rounded(&self, name: &str, patch: &Patch) -> (PathBuf, f64, RoundedTensor) {
        let (out, report) = self.out(name, from_ref(patch));
        let delta = dense(&patch.changes[0].delta, [OUT, IN]);
        let both = self.w(&out).into_iter().zip(self.w(&self.file)).zip(&delta);
        let error: Vec<f64> = both.map(|((new, old), d)| new - old - d).collect();
        let lost = worst(&self.k, &error, &delta);
        (out, lost, report)
    }

    fn out(&self, name: &str, patches: &[Patch]) -> (PathBuf, RoundedTensor) {
        let out = self.temp.path().join(name);
        let stats = self.temp.path().join("stats");
        let how = Rounding { statistics: Some(&stats), other_base: false, raise: false };
        let made = to_file(&self.file, patches, how, &out, &Quiet).unwrap();
        (out, made.into_iter().next().unwrap())
    }

    fn change(&self, patches: &[Patch], other_base: bool) -> incise::Result<Vec<RoundedTensor>> {
        let stats = self.temp.path().join("stats");
        let how = Rounding { statistics: Some(&stats), other_base, raise: false };
        in_place(&self.file, patches, how, &Quiet)
    }
}

/// ‖Ek‖/‖Δk‖ at the worst key.
fn worst(k: &Mat<f64>, error: &[f64], delta: &[f64]) -> f64 {
    let at = |m: &[f64], j: usize| {
        let row = |i: usize| (0..IN).map(|l| m[i * IN + l] * k[(l, j)]).sum::<f64>().powi(2);
        (0..OUT).map(row).sum::<f64>().sqrt()
    };
    (0..k.ncols()).map(|j| at(error, j) / at(delta, j)).fold(0.0, f64::max)
}

/// That codes alone differ between two tensors of a type.
fn check_codes_alone(kind: &BlockType, halves: &[usize], [new, old]: [&[u8]; 2]) {
    let grid = kind.grid().unwrap();
    for (new, old) in new.chunks(kind.bytes).zip(old.chunks(kind.bytes)) {
        let (mut steps, mut codes) = (vec![Step::default(); grid.groups()], vec![0; grid.elements]);
        grid.read(old, &mut steps, &mut codes);
        let mut back = new.to_vec();
        grid.put_codes(&mut back, &codes);
        assert_eq!(back, old, "{}: more than codes changed", kind.name);
        assert!(halves.iter().all(|&at| new[at..at + 2] == old[at..at + 2]));
    }
}

/// Of every type: nothing but codes of the one tensor changes, keys keep what they lose where
/// rounding does not know them, the report says what is so, and undo gives back every byte.
#[test]
fn codes_change_and_keys_are_kept_in_every_type() {
    for (kind, halves) in HALVES {
        let case = Case::new(kind, 3);
        let before = case.bytes();
        let patch = case.patch(1.0, 1);
        let (out, lost, report) = case.rounded("out.gguf", &patch);
        let after = fs::read(&out).unwrap();
        assert_eq!(after.len(), before.len());
        let gguf = GgufFile::open(&case.file).unwrap();
        let tensor = gguf.header().tensor(NAME).unwrap();
        let [start, end] = [tensor.range.start, tensor.range.end].map(|at| at as usize);
        assert_eq!(after[..start], before[..start], "{kind}");
        assert_eq!(after[end..], before[end..], "{kind}");
        check_codes_alone(tensor.kind, halves, [&after[start..end], &before[start..end]]);
        let mut unknown = patch.clone();
        unknown.metadata.notes = json!(null);
        let (_, plain, _) = case.rounded("unknown.gguf", &unknown);
        assert!(lost < plain / 3.0, "{kind}: a key loses {lost}, and unknown {plain}");
        assert_eq!((report.kind, report.keys, report.keyless, report.soft_keys), (kind, 3, 0, 0));
        assert!(
            report.changed > 0.0 && report.text.unwrap() < 3.0 && report.saturated < 0.9,
            "{report:?}"
        );
        case.change(from_ref(&patch), false).unwrap();
        assert_eq!(case.bytes(), after, "{kind}: in place differs from the copy");
        assert_eq!(log(&case.file).unwrap().len(), 1);
        undo(&case.file, None).unwrap();
        assert_eq!(case.bytes(), before, "{kind}: undo");
    }
}

/// Numbers are rounded to the nearest each.
#[test]
fn tensors_of_plain_numbers() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let case = Case::new(dtype.name(), 2);
        let patch = case.patch(1.0, 1);
        let delta = dense(&patch.changes[0].delta, [OUT, IN]);
        let sum: Vec<f64> = case.w(&case.file).iter().zip(&delta).map(|(w, d)| w + d).collect();
        let mut want = Vec::new();
        dtype.narrow(&sum, &mut want);
        let (out, report) = case.out("out.gguf", from_ref(&patch));
        let gguf = GgufFile::open(&out).unwrap();
        let tensor = gguf.header().tensor(NAME).unwrap();
        assert_eq!(gguf.bytes(tensor).to_vec(), want, "{dtype:?}");
        assert!(report.worst_key.unwrap() < 0.1, "{report:?}");
    }
}

/// One after another, in either order, or together: one file. Undoing the newest leaves the file of
/// the other alone.
#[test]
fn the_file_depends_on_the_set_of_patches() {
    let case = Case::new("Q4_1", 3);
    let before = case.bytes();
    let [a, b] = [1, 2].map(|seed| case.patch(1.0, seed));
    let both = fs::read(case.out("both", &[a.clone(), b.clone()]).0).unwrap();
    let alone = fs::read(case.out("alone", from_ref(&b)).0).unwrap();
    assert!(both != alone && alone != before);
    for (first, second) in [(&a, &b), (&b, &a)] {
        case.change(from_ref(first), false).unwrap();
        case.change(from_ref(second), false).unwrap();
        assert_eq!(case.bytes(), both);
        undo(&case.file, Some(0)).unwrap();
        assert_eq!(case.bytes(), before);
    }
    case.change(&[b.clone(), a.clone()], false).unwrap();
    assert_eq!(case.bytes(), both);
    undo(&case.file, None).unwrap();
    assert_eq!(case.bytes(), alone);
    // A copy of the changed file with one more is the same too.
    let copied = case.out("from changed", from_ref(&a)).0;
    assert_eq!(fs::read(copied).unwrap(), both);
}

/// A change of nothing gives the file's bytes.
#[test]
fn no_change_changes_no_byte() {
    for (kind, _) in HALVES {
        let case = Case::new(kind, 2);
        let (out, report) = case.out("out", from_ref(&case.patch(0.0, 1)));
        assert_eq!(fs::read(out).unwrap(), case.bytes(), "{kind}");
        assert_eq!((report.changed, report.lost), (0.0, 0.0), "{kind}");
    }
}

/// Keys that a patch carries serve as those of its factors; without either, rounding knows none,
/// and says so.
#[test]
fn keys_are_carried_or_follow_or_are_missing() {
    let case = Case::new("Q4_0", 3);
    let follows = case.patch(1.0, 1);
    let mut none = follows.clone();
    none.metadata.notes = json!(null);
    let mut carries = none.clone();
    carries.changes[0].keys = Some(case.keys());
    let (_, follow, _) = case.rounded("follows", &follows);
    let (_, carried, report) = case.rounded("carries", &carries);
    assert_eq!((report.keys, report.keyless), (3, 0));
    // In f32; what is left at a key is small beside what its terms add up to.
    let said = report.worst_key.unwrap();
    assert!((said - carried).abs() < 1e-5, "{said} is said, {carried} is so");
    let (_, without, report) = case.rounded("none", &none);
    assert_eq!((report.keys, report.keyless, report.worst_key), (0, 1, None));
    assert!(follow < without / 3.0 && carried < without / 3.0, "{follow} {carried} {without}");
    let file = case.temp.path().join("patch");
    carries.write(&file).unwrap();
    assert_eq!(Patch::read(&file).unwrap(), carries);
}

/// A tensor of fewer bits becomes Q8_0, and loses less; the rest of the file has other places.
#[test]
fn a_type_is_raised() {
    let stats = |case: &Case| case.temp.path().join("stats");
    for (kind, raised) in [("Q4_0", "Q8_0"), ("Q6_K", "Q8_0"), ("Q8_0", "Q8_0"), ("F16", "F16")] {
        let case = Case::new(kind, 3);
        let patch = case.patch(1.0, 1);
        let (_, plain) = case.out("plain", from_ref(&patch));
        let (out, statistics) = (case.temp.path().join("raised"), &stats(&case));
        let how = Rounding { statistics: Some(statistics), other_base: false, raise: true };
        let report = &to_file(&case.file, from_ref(&patch), how, &out, &Quiet).unwrap()[0];
        assert_eq!(report.kind, raised);
        assert!(report.lost < plain.lost / 2.0 || kind == raised, "{report:?} {plain:?}");
        let [old, new] = [&case.file, &out].map(|file| GgufFile::open(file).unwrap());
        assert_eq!(new.header().metadata, old.header().metadata);
        for tensor in &old.header().tensors {
            let moved = new.header().tensor(&tensor.name).unwrap();
            assert_eq!(moved.shape, tensor.shape);
            if tensor.name != NAME {
                assert_eq!(new.bytes(moved).to_vec(), old.bytes(tensor).to_vec());
            }
        }
        assert_eq!(new.header().tensor(NAME).unwrap().kind.name, raised);
        assert!(refusal(in_place(&case.file, &[patch], how, &Quiet)).contains("a longer file"));
    }
}

/// More keys than a quarter of the width: the rest count as text.
#[test]
fn too_many_keys_are_soft() {
    let case = Case::new("Q8_0", IN / 4 + 5);
    let (_, report) = case.out("out", from_ref(&case.patch(1.0, 1)));
    assert_eq!((report.keys, report.soft_keys), (IN / 4 + 5, 5));
}

#[test]
fn what_is_refused() {
    let case = Case::new("Q4_0", 3);
    let before = case.bytes();
    let patch = case.patch(1.0, 1);
    let refused = |change: &dyn Fn(&mut Patch), want: &str| {
        let mut other = patch.clone();
        change(&mut other);
        let why = refusal(case.change(from_ref(&other), false));
        assert!(why.contains(want), "{why}");
        assert_eq!(case.bytes(), before);
    };
    refused(&|p| p.changes[0].fingerprint = "0".into(), "planned on other weights");
    refused(&|p| p.changes[0].module = "model.layers.3.mlp.up_proj".into(), "no down projection");
    refused(&|p| p.changes[0].module = "model.layers.4.mlp.down_proj".into(), "no such tensor");
    refused(&|p| p.metadata.model = "89ab".into(), "no patch was planned on it");
    refused(&|p| p.metadata.notes["statistics"]["3"] = "9".into(), "follow from others, of 9");
    let why = refusal(case.change(&[patch.clone(), patch.clone()], false));
    assert!(why.contains("is in the file already, or is named twice"), "{why}");
    refused(
        &|p| {
            p.changes[0].delta = Delta::Dense(vec![0.0; 2 * IN]);
            p.changes[0].out = 2;
        },
        "has the shape [6, 256]",
    );
    let mut other = patch.clone();
    other.changes[0].fingerprint = "0".into();
    case.change(from_ref(&other), true).unwrap();
    undo(&case.file, None).unwrap();
    // For a change far below the grid, sparing its keys costs text more than the change does.
    let why = refusal(case.change(from_ref(&case.patch(0.1, 1)), false));
    assert!(why.contains("would cost running text"), "{why}");
    // One folder, one file with changes.
    let second = case.file.with_file_name("second.gguf");
    fs::copy(&case.file, &second).unwrap();
    case.change(from_ref(&patch), false).unwrap();
    let why = refusal(undo(&second, None));
    assert!(why.contains("model.gguf, in the same folder, was changed in place"), "{why}");
    let why = refusal(log(&case.temp.path().join("stats").join("layer-3.safetensors")));
    assert!(!why.is_empty());
    // Something else writes the file: its bytes are not overwritten.
    let mut bytes = case.bytes();
    let at = GgufFile::open(&case.file).unwrap().header().tensor(NAME).unwrap().range.start;
    bytes[at as usize + 5] ^= 1;
    fs::write(&case.file, &bytes).unwrap();
    let later = case.patch(1.0, 2);
    for why in [refusal(undo(&case.file, None)), refusal(case.change(from_ref(&later), false))] {
        assert!(why.contains("is not as change 1 left it") && why.contains("since"), "{why}");
    }
    assert_eq!(case.bytes(), bytes);
}

/// Without statistics numbers are rounded, and codes are not; a patch of an earlier version, which
/// does not say which it was planned with, is taken to be planned with those given.
#[test]
fn statistics_are_asked_for_where_they_serve() {
    for (kind, served) in [("F16", true), ("Q8_0", false)] {
        let case = Case::new(kind, 3);
        let patch = case.patch(1.0, 1);
        let how = Rounding { statistics: None, other_base: false, raise: false };
        let out = case.temp.path().join("out");
        match to_file(&case.file, from_ref(&patch), how, &out, &Quiet) {
            Ok(made) => assert!(served && made[0].text.is_none(), "{made:?}"),
            Err(e) => assert!(!served && e.to_string().contains("needs the key statistics"), "{e}"),
        }
        let mut older = patch.clone();
        older.metadata.notes = json!({"keys": "factors"});
        let (_, report) = case.out("older", from_ref(&older));
        assert_eq!((report.keys, report.keyless), (3, 0));
    }
}

/// A copy takes up the changes of its own file alone; and no output replaces a file that has some.
#[test]
fn journals_of_neighbours() {
    let case = Case::new("Q4_1", 3);
    let second = case.file.with_file_name("second.gguf");
    fs::copy(&case.file, &second).unwrap();
    let [a, b] = [1, 2].map(|seed| case.patch(1.0, seed));
    let alone = fs::read(case.out("alone", from_ref(&b)).0).unwrap();
    case.change(from_ref(&a), false).unwrap();
    let (stats, out) = (case.temp.path().join("stats"), case.temp.path().join("beside"));
    let how = Rounding { statistics: Some(&stats), other_base: false, raise: false };
    to_file(&second, from_ref(&b), how, &out, &Quiet).unwrap();
    assert_eq!(fs::read(&out).unwrap(), alone);
    let why = refusal(check_place(&case.file, &[]));
    assert!(why.contains("was changed in place"), "{why}");
    check_place(&second, &[]).unwrap();
    // Its name may be a link.
    let link = case.temp.path().join("link.gguf");
    symlink(&case.file, &link).unwrap();
    to_file(&link, from_ref(&b), how, &out, &Quiet).unwrap();
    let both = case.out("both", from_ref(&b)).0;
    assert_eq!(fs::read(&out).unwrap(), fs::read(both).unwrap());
}

/// J7: a record that came with the folder puts old bytes back, and none into the file's header.
#[test]
fn a_journal_from_elsewhere_stays_behind_the_header() {
    for inside in [true, false] {
        let case = Case::new("Q4_0", 2);
        let before = case.bytes();
        let data = GgufFile::open(&case.file).unwrap().header().data;
        let header: String =
            checksum(&before[8..data as usize]).iter().map(|byte| format!("{byte:02x}")).collect();
        let (file, len) = ("model.gguf".to_owned(), before.len() as u64);
        let offset = if inside { data - 4 } else { data };
        let range = FileRange { file: file.clone(), offset, len: 4 };
        let (method, tensors) = ("rome".into(), vec!["a".into()]);
        let entry = LogEntry { number: 1, time: 0, method, facts: 1, tensors };
        let files = vec![FileIdentity { file, len, header }];
        let head = Head { entry, files, ranges: vec![range] };
        let folder = case.file.with_file_name(".incise");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("lock"), "").unwrap();
        let path = folder.join("0001.journal");
        Record::write(&Os, &path, &head, &mut |_| Ok(vec![9; 4])).unwrap();
        if inside {
            let why = refusal(log(&case.file));
            assert!(why.contains("begins inside the header"), "{why}");
            assert_eq!(case.bytes(), before);
        } else {
            assert!(log(&case.file).unwrap().is_empty());
            assert_eq!(case.bytes()[data as usize..][..4], [9; 4]);
        }
    }
}
