//! Patches of rows of a tensor: q, k or v where one tensor holds all three.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use incise::base::progress::Quiet;
use incise::base::{DType, Progress};
use incise::edit::apply::{PatchSide, in_place, to_file, to_folder, undo};
use incise::edit::export::adapter::Adapter;
use incise::model::change::dense;
use incise::model::lineage::weights_name;
use incise::model::{Matrix, MatrixId, Model, fingerprint};
use incise::store::lineage::Lineage;
use incise::store::tensor_fingerprint;
use incise::store::{Change, Checkpoint, Delta, Patch, RowBlocks, model_fingerprint};
use incise::tensor::{Device, Precision};
use tempfile::TempDir;

use crate::ops::update::{low_rank, nearest, random};
use crate::store::toy::{A, Toy, bytes, metadata, refusal, tensor};
use crate::support::golden::Golden;

/// Models whose q, k and v are rows of one tensor, stored (in, out) or head by head, or are three.
const MODELS: [&str; 3] = ["gpt2", "neox", "llama"];

/// A copy of a recorded model.
pub struct Copy(TempDir);

impl Copy {
    fn of(name: &'static str) -> Copy {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("model");
        fs::create_dir(&dir).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(Golden::open(name).dir.join(file), dir.join(file)).unwrap();
        }
        Copy(temp)
    }

    pub fn dir(&self) -> PathBuf {
        self.0.path().join("model")
    }

    pub fn beside(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn model(dir: &Path) -> Model {
    Model::load(&Checkpoint::open(dir).unwrap(), Precision::F32).unwrap()
}

fn id(matrix: Matrix) -> MatrixId {
    MatrixId::new(1, matrix)
}

/// A change of a matrix of the model in a folder, of a rank or dense.
fn change(dir: &Path, matrix: Matrix, r: Option<usize>, seed: u64) -> Change {
    let model = model(dir);
    let linear = model.matrix(id(matrix));
    let [out, inner] = linear.w.dims();
    let delta = match r {
        Some(r) => low_rank(out, inner, r, 0.1, seed),
        None => Delta::Dense(random(out * inner, 0.1, seed)),
    };
    Change {
        tensor: linear.stored.tensor.clone(),
        module: linear.stored.module.clone(),
        rows: linear.stored.rows,
        out,
        inner,
        fan_in_fan_out: linear.stored.fan_in_fan_out,
        fingerprint: tensor_fingerprint(&tensor(dir, &linear.stored.tensor)),
        keys: None,
        delta,
    }
}

/// A patch, as it is after being written and read.
fn patch(mut changes: Vec<Change>) -> Patch {
    changes.sort_by(|a, b| a.order().cmp(&b.order()));
    let patch = Patch { changes, metadata: metadata(), file: None };
    let temp = tempfile::tempdir().unwrap();
    patch.write(&temp.path().join("p")).unwrap();
    assert_eq!(Patch::read(&temp.path().join("p")).unwrap(), patch);
    patch
}

/// Two patches of a model: the second is for what the first leaves, and changes k once more.
pub struct Chain {
    pub copy: Copy,
    pub patches: [Patch; 2],
    /// Each matrix, and what is added to it by one patch or both.
    added: [Vec<(Matrix, Vec<f64>)>; 2],
}

pub fn chain(name: &'static str) -> Chain {
    let copy = Copy::of(name);
    let dir = copy.dir();
    let of = |c: &Change| dense(&c.delta, [c.out, c.inner]);
    let k = change(&dir, Matrix::K, Some(2), 1);
    let q = change(&dir, Matrix::Q, None, 2);
    let down = change(&dir, Matrix::Down, Some(1), 3);
    let mut after_one = vec![(Matrix::K, of(&k)), (Matrix::Q, of(&q)), (Matrix::Down, of(&down))];
    let first = patch(vec![k, q, down]);
    let between = copy.beside("between");
    to_folder(&dir, from_ref(&first), &between, &Device::Cpu, &Quiet).unwrap();
    let k = change(&between, Matrix::K, Some(1), 4);
    let v = change(&between, Matrix::V, Some(1), 5);
    let one = after_one.clone();
    after_one[0].1.iter_mut().zip(of(&k)).for_each(|(sum, d)| *sum += d);
    after_one.push((Matrix::V, of(&v)));
    Chain { copy, patches: [first, patch(vec![k, v])], added: [one, after_one] }
}

/// The type of a tensor.
fn stored(dir: &Path, name: &str) -> DType {
    Checkpoint::open(dir).unwrap().tensor(name).unwrap().unwrap().dtype
}

fn rounded(dtype: DType, v: f64) -> f64 {
    let mut rounded = [0.0f64];
    dtype.widen(&nearest(dtype, v), &mut rounded);
    rounded[0]
}

/// The model in `dir` is that in `from` with something added to some matrices of a layer, rounded
/// once; every other tensor has the bytes it had.
fn holds(from: &Path, dir: &Path, added: &[(Matrix, Vec<f64>)], case: &str) {
    let (old, new) = (model(from), model(dir));
    for (of, linear) in old.matrices() {
        let mut want = linear.w.to_dense::<f64>();
        for (_, delta) in added.iter().filter(|(matrix, _)| id(*matrix) == of) {
            let dtype = stored(from, &linear.stored.tensor);
            want.iter_mut().zip(delta).for_each(|(w, d)| *w = rounded(dtype, *w + d));
        }
        assert!(new.matrix(of).w.to_dense::<f64>() == want, "{case}: {of}");
    }
    let changed: Vec<&str> =
        added.iter().map(|(matrix, _)| &*old.matrix(id(*matrix)).stored.tensor).collect();
    for name in Checkpoint::open(from).unwrap().names().filter(|name| !changed.contains(name)) {
        assert!(tensor(from, name) == tensor(dir, name), "{case}: {name}");
    }
}

#[test]
fn rows_change_and_nothing_else() {
    for name in MODELS {
        let Chain { copy, patches, added } = chain(name);
        let (dir, out) = (copy.dir(), copy.beside("out"));
        let before = bytes(&dir);
        holds(&dir, &copy.beside("between"), &added[0], &format!("{name}, one patch"));
        to_folder(&dir, &patches, &out, &Device::Cpu, &Quiet).unwrap();
        holds(&dir, &out, &added[1], &format!("{name}, both at once"));
        for (n, patch) in patches.iter().enumerate() {
            in_place(&dir, from_ref(patch), &Device::Cpu, &Quiet).unwrap();
            let whole = [copy.beside("between"), out.clone()];
            assert!(bytes(&dir) == bytes(&whole[n]), "{name}: {} in place", n + 1);
        }
        undo(&dir, None).unwrap();
        assert!(bytes(&dir) == bytes(&copy.beside("between")), "{name}: one undone");
        undo(&dir, None).unwrap();
        in_place(&dir, &patches, &Device::Cpu, &Quiet).unwrap();
        assert!(bytes(&dir) == bytes(&out), "{name}: both in place");
        undo(&dir, Some(0)).unwrap();
        assert!(bytes(&dir) == before, "{name}: undone");
        let left: Vec<_> = fs::read_dir(dir.join(".incise")).unwrap().collect();
        assert_eq!(left.len(), 1, "{name}: the lock alone is left");
        let file = copy.beside("tensors");
        to_file(&dir, &patches, PatchSide::After, &file, &Device::Cpu, &Quiet).unwrap();
        let file = fs::read(file).unwrap();
        let file = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(file.len(), if name == "llama" { 4 } else { 2 });
        for name in file.names() {
            assert!(file.tensor(name).unwrap().data() == tensor(&out, name), "{name}");
        }
        let second = from_ref(&patches[1]);
        let why = refusal(to_folder(&dir, second, &copy.beside("no"), &Device::Cpu, &Quiet));
        assert!(why.contains("patch 1 is for"), "{name}: {why}");
    }
}

/// Rows that nothing changes keep their bytes, a −0 too, to which adding 0 would give a 0.
#[test]
fn other_rows_keep_their_bytes() {
    for (shape, fan_in_fan_out) in [([7, 5], false), ([5, 7], true)] {
        let toy = Toy::new(DType::F32, shape);
        let checkpoint = toy.open();
        let (shard, entry) = checkpoint.entry(A).unwrap();
        let file = fs::File::options().write(true).open(shard.path()).unwrap();
        let zeros = (-0.0f32).to_le_bytes().repeat(35);
        file.write_all_at(&zeros, entry.range.start).unwrap();
        drop(checkpoint);
        let change = Change {
            tensor: A.into(),
            module: "a".into(),
            rows: Some(RowBlocks { start: 2, len: 3, period: 7, count: 1 }),
            out: 3,
            inner: 5,
            fan_in_fan_out,
            fingerprint: tensor_fingerprint(&zeros),
            keys: None,
            delta: Delta::Dense(vec![1.0; 15]),
        };
        in_place(&toy.dir, &[patch(vec![change])], &Device::Cpu, &Quiet).unwrap();
        let (new, old) = (tensor(&toy.dir, A), (-0.0f32).to_le_bytes());
        for (i, element) in new.chunks_exact(4).enumerate() {
            let row = if fan_in_fan_out { i % 7 } else { i / 5 };
            let want = if (2..5).contains(&row) { 1f32.to_le_bytes() } else { old };
            assert_eq!(element, want, "element {i}");
        }
    }
}

/// An adapter of rows: B A is the change to the bit, and the other rows of B are 0.
#[test]
fn an_adapter_of_rows() {
    for name in MODELS {
        let copy = Copy::of(name);
        let changes = [(Matrix::V, 7), (Matrix::K, 8)];
        let changes = changes.map(|(matrix, seed)| change(&copy.dir(), matrix, Some(1), seed));
        let adapter = Adapter::of(&patch(changes.to_vec()), None, &Quiet).unwrap();
        assert_eq!(adapter.modules.len(), if name == "llama" { 2 } else { 1 });
        for m in &adapter.modules {
            assert_eq!(m.lost, 0.0);
            let mut want = vec![0.0; m.out * m.inner];
            for c in changes.iter().filter(|c| c.tensor == m.tensor) {
                let delta = dense(&c.delta, [c.out, c.inner]);
                let rows: Vec<usize> = match c.rows {
                    None => (0..c.out).collect(),
                    Some(r) => (0..r.count)
                        .flat_map(|b| (0..r.len).map(move |i| b * r.period + r.start + i))
                        .collect(),
                };
                for (row, delta) in rows.into_iter().zip(delta.chunks_exact(m.inner)) {
                    want[row * m.inner..][..m.inner].copy_from_slice(delta);
                }
            }
            let r = adapter.rank;
            let of = |o: usize, i: usize| -> f64 {
                (0..r).map(|k| f64::from(m.b[o * r + k]) * f64::from(m.a[k * m.inner + i])).sum()
            };
            for (at, want) in want.iter().enumerate() {
                assert_eq!(of(at / m.inner, at % m.inner), *want, "{name}: {}", m.tensor);
            }
        }
    }
}

/// A dense change of rows is as near as its rank allows, on its own rows alone.
#[test]
fn an_adapter_of_dense_rows() {
    let copy = Copy::of("gpt2");
    let c = change(&copy.dir(), Matrix::K, None, 1);
    let adapter = Adapter::of(&patch(vec![c.clone()]), Some(8), &Quiet).unwrap();
    let (m, rows) = (&adapter.modules[0], c.rows.unwrap());
    assert!(m.lost > 0.0 && m.lost < 1.0 && m.rank == c.out.min(c.inner), "{}", m.lost);
    for (row, b) in m.b.chunks_exact(8).enumerate() {
        let changed = (rows.start..rows.start + rows.len).contains(&row);
        assert_eq!(b.iter().any(|&x| x != 0.0), changed, "row {row}");
    }
}

/// Keeps warnings.
#[derive(Default)]
struct Warned(std::sync::Mutex<Vec<String>>);

impl Progress for Warned {
    fn at(&self, _: incise::base::Stage, _: u64, _: u64) {}
    fn warn(&self, warning: &str) {
        self.0.lock().unwrap().push(warning.to_owned());
    }
    fn cancelled(&self) -> bool {
        false
    }
}

/// The fingerprint of a model, and how many warnings came with it.
fn named(dir: &Path) -> (String, usize) {
    let warned = Warned::default();
    let name = fingerprint(&Checkpoint::open(dir).unwrap(), &warned).unwrap();
    let warnings = warned.0.into_inner().unwrap();
    assert!(warnings.iter().all(|w| w.contains("is not of these weights")), "{warnings:?}");
    (name, warnings.len())
}

/// The fingerprint of the weights as they are, without a lineage.
fn own(dir: &Path) -> String {
    let downs: Vec<String> = model(dir)
        .matrices()
        .filter(|(id, _)| id.matrix == Matrix::Down)
        .map(|(_, w)| w.stored.tensor.clone())
        .collect();
    let checkpoint = Checkpoint::open(dir).unwrap();
    model_fingerprint(&checkpoint, &|name| downs.iter().any(|down| down == name)).unwrap()
}

fn lineage(dir: &Path) -> Lineage {
    Lineage::read(dir).unwrap().unwrap()
}

/// Both forms of applying keep the base's fingerprint, and so does a chain of them; the figures are
/// those of all that was added.
#[test]
fn an_edit_of_any_matrix_keeps_the_fingerprint_of_its_base() {
    for name in MODELS {
        let Chain { copy, patches, added } = chain(name);
        let (dir, between, out) = (copy.dir(), copy.beside("between"), copy.beside("out"));
        let base = named(&dir).0;
        assert_eq!(base, own(&dir), "{name}: no lineage");
        assert_eq!(named(&between), (base.clone(), 0), "{name}");
        assert_ne!(own(&between), base, "{name}: the case changes nothing that is sampled");
        to_folder(&dir, &patches, &out, &Device::Cpu, &Quiet).unwrap();
        assert_eq!(named(&out), (base.clone(), 0), "{name}: both at once");
        in_place(&dir, &patches, &Device::Cpu, &Quiet).unwrap();
        assert_eq!(named(&dir), (base.clone(), 0), "{name}: in place");
        assert_eq!(lineage(&dir).tensors, lineage(&out).tensors, "{name}");
        // What is kept for weights is kept for all of their bytes, and not for a sample.
        let kept = |dir: &Path| weights_name(&Checkpoint::open(dir).unwrap()).unwrap();
        let sample =
            |dir: &Path| model_fingerprint(&Checkpoint::open(dir).unwrap(), &|_| false).unwrap();
        assert_eq!(kept(&dir), kept(&out), "{name}");
        assert!(kept(&dir) != kept(&between) && kept(&dir) != sample(&dir), "{name}");
        // Of an edit: a new folder of the folder, and in place there.
        let third = copy.beside("third");
        to_folder(&between, from_ref(&patches[1]), &third, &Device::Cpu, &Quiet).unwrap();
        assert_eq!(named(&third), (base.clone(), 0), "{name}: an edit of an edit");
        let file = between.join(".incise/lineage.json");
        let before = fs::read(&file).unwrap();
        in_place(&between, from_ref(&patches[1]), &Device::Cpu, &Quiet).unwrap();
        assert_eq!(named(&between), (base.clone(), 0), "{name}: an edit of an edit in place");
        assert_eq!(lineage(&between), lineage(&third), "{name}");
        undo(&between, None).unwrap();
        assert_eq!(fs::read(&file).unwrap(), before, "{name}: undone");
        undo(&dir, None).unwrap();
        assert_eq!(lineage(&dir), lineage(&copy.beside("between")), "{name}: one undone");
        assert_eq!(named(&dir), (base.clone(), 0), "{name}: one undone");
        undo(&dir, None).unwrap();
        assert!(!dir.join(".incise/lineage.json").exists(), "{name}");
        // Figures.
        let model = model(&dir);
        let norm = |of: &dyn Fn(Matrix) -> Vec<f64>, matrices: &[Matrix]| -> f64 {
            let all = matrices.iter().flat_map(|&matrix| of(matrix));
            all.map(|x| x * x).sum::<f64>().sqrt()
        };
        let first = [Matrix::K, Matrix::Q, Matrix::Down];
        let second: &[Matrix] = match name {
            "llama" => &[Matrix::K, Matrix::V],
            _ => &[Matrix::K, Matrix::Q, Matrix::V], // one tensor
        };
        let of = |step: usize| {
            let added = &added[step];
            move |matrix: Matrix| added.iter().find(|(m, _)| *m == matrix).unwrap().1.clone()
        };
        let want = [norm(&of(0), &first), norm(&of(1), second)];
        let of_w = |matrix: Matrix| model.matrix(id(matrix)).w.to_dense::<f64>();
        let weight = norm(&of_w, second);
        let applied = lineage(&out).patches;
        assert_eq!(applied.len(), 2);
        let figures = applied.iter().map(|patch| patch.change.unwrap()).zip(want);
        for (got, want) in figures.chain([(applied[1].weight.unwrap(), weight)]) {
            assert!((got / want - 1.0).abs() < 1e-12, "{name}: {got} of {want}");
        }
        assert!(applied.iter().all(|patch| patch.method == "rome" && patch.facts == 3));
        let file = copy.beside("patch");
        patches[0].write(&file).unwrap();
        let hash = tensor_fingerprint(&fs::read(file).unwrap());
        assert_eq!(applied[0].hash, hash, "{name}");
    }
}

/// A lineage counts for the weights it was written for.
#[test]
fn a_lineage_of_other_weights_does_not_count() {
    let Chain { copy, patches, .. } = chain("gpt2");
    let (dir, between) = (copy.dir(), copy.beside("between"));
    let base = named(&dir).0;
    let file = between.join(".incise/lineage.json");
    let good = fs::read(&file).unwrap();
    // Another model's: of its base, and of an edit of another.
    fs::create_dir(dir.join(".incise")).unwrap();
    fs::write(dir.join(".incise/lineage.json"), &good).unwrap();
    assert_eq!(named(&dir), (base.clone(), 1), "the unedited model has its own name");
    fs::remove_dir_all(dir.join(".incise")).unwrap();
    let turn = |name: &str, at: u64| {
        let checkpoint = Checkpoint::open(&between).unwrap();
        let (shard, entry) = checkpoint.entry(name).unwrap();
        let file = fs::File::options().read(true).write(true).open(shard.path()).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, entry.range.start + at).unwrap();
        file.write_all_at(&[!byte[0]], entry.range.start + at).unwrap();
    };
    // A byte of what was changed, of what was not, and of a down projection, which never counts.
    for (name, counts) in [
        ("transformer.h.1.attn.c_attn.weight", false),
        ("transformer.h.0.attn.c_attn.weight", false),
        ("transformer.h.1.mlp.c_proj.weight", true),
        ("transformer.h.0.mlp.c_proj.weight", true),
    ] {
        turn(name, 1);
        let want = if counts { (base.clone(), 0) } else { (own(&between), 1) };
        assert_eq!(named(&between), want, "{name}");
        turn(name, 1);
    }
    assert_eq!(named(&between), (base, 0));
    // An edit of such a model begins a lineage of its own.
    turn("transformer.h.0.attn.c_attn.weight", 1);
    let begun = own(&between);
    in_place(&between, from_ref(&patches[1]), &Device::Cpu, &Quiet).unwrap();
    assert_eq!((lineage(&between).base, lineage(&between).patches.len()), (begun.clone(), 1));
    assert_eq!(named(&between), (begun, 0));
    // What undoing would put back is looked at before a byte is written.
    let kept = between.join(".incise/0001.lineage.json");
    fs::write(&kept, "{").unwrap();
    let edited = bytes(&between);
    let said = refusal(undo(&between, None));
    assert!(
        said.contains("0001.lineage.json: JSON:") && said.contains("write `null` into the file"),
        "{said}"
    );
    assert!(bytes(&between) == edited);
    fs::write(&kept, &good).unwrap();
    undo(&between, None).unwrap();
    assert_eq!(fs::read(&file).unwrap(), good);
    // Done as the remedy says, an undo leaves no lineage.
    in_place(&between, from_ref(&patches[1]), &Device::Cpu, &Quiet).unwrap();
    fs::write(&kept, "null").unwrap();
    undo(&between, None).unwrap();
    assert!(!file.exists());
    let text = String::from_utf8(good).unwrap();
    for (broken, why) in [
        (text[..text.len() / 2].to_owned(), "lineage.json: JSON:"),
        (text.replace("lineage 1", "lineage 9"), "lineage.json: format: is \"incise lineage 9\""),
        ("[]".to_owned(), "lineage.json: JSON:"),
        (String::new(), "lineage.json: JSON:"),
    ] {
        fs::write(&file, broken).unwrap();
        let said = refusal(fingerprint(&Checkpoint::open(&between).unwrap(), &Quiet));
        assert!(said.contains(why) && said.contains("remove the file"), "{said}");
    }
}
