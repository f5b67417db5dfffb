//! `.npz` files of the public code, and statistics added up.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use incise::base::{Operation, Result, Share};
use incise::stats::origin::Part;
use incise::stats::{Input, LayerInput, Moment, Origin, import, merge};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// The keys of `tools/npz.py`.
fn moment(f: usize, tokens: usize) -> Vec<f32> {
    let key = |t: usize, i: usize| ((31 * t + 17 * i + t * i) % 23) as f64 / 8.0 - 11.0 / 8.0;
    let entry = |i, j| (0..tokens).map(|t| key(t, i) * key(t, j)).sum::<f64>() / tokens as f64;
    (0..f * f).map(|at| entry(at / f, at % f) as f32).collect()
}

#[test]
fn an_npz_of_numpy_is_read_to_the_bit() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/npz/layer-1.npz");
    let got = import::npz(&path, 1, 112, "m").unwrap();
    assert_eq!((got.layer, got.f, got.tokens, &got.origin.model[..]), (1, 112, 500, "m"));
    assert_eq!(got.second_moment, moment(112, 500));
    let folder = tempfile::tempdir().unwrap();
    got.write(folder.path()).unwrap();
    assert_eq!(Moment::read(folder.path(), 1, 112, "m").unwrap(), got);
    let error = import::npz(&path, 1, 64, "m").unwrap_err().to_string();
    assert!(error.contains("mom2.mom2: has the shape [112, 112], not [64, 64]"), "{error}");
}

/// An array in NumPy's format, version 1.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    while (header.len() + 10) % 64 > 0 {
        header.insert(header.len() - 1, ' ');
    }
    let len = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &len[..], header.as_bytes(), data].concat()
}

fn count(n: i64) -> (&'static str, Vec<u8>) {
    ("mom2.count", npy("<i8", "()", &n.to_le_bytes()))
}

fn matrix(values: &[f64]) -> (&'static str, Vec<u8>) {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    ("mom2.mom2", npy("<f8", "(2, 2)", &bytes))
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn file(&self, arrays: &[(&str, Vec<u8>)]) -> PathBuf {
        let path = self.0.path().join("c.npz");
        let mut zip = ZipWriter::new(fs::File::create(&path).unwrap());
        let small = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        for (name, bytes) in arrays {
            zip.start_file(format!("{name}.npy"), small).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        path
    }

    fn import(&self, arrays: &[(&str, Vec<u8>)]) -> Result<Moment> {
        import::npz(&self.file(arrays), 0, 2, "m")
    }
}

fn folder() -> Folder {
    Folder(tempfile::tempdir().unwrap())
}

#[test]
fn sums_become_means_in_every_type() {
    let f = folder();
    let want = [2.0, 0.5, 0.5, 1.0];
    let sums = [8.0, 2.0, 2.0, 4.0];
    let got = f.import(&[matrix(&sums), count(4)]).unwrap();
    assert_eq!((got.second_moment, got.tokens), (want.to_vec(), 4));
    let single: Vec<u8> = sums.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
    let short = ("mom2.count", npy("<i4", "()", &4i32.to_le_bytes()));
    let got = f.import(&[("mom2.mom2", npy("<f4", "(2, 2)", &single)), short]).unwrap();
    assert_eq!(got.second_moment, want);
}

#[test]
fn halves_that_differ_by_rounding_are_averaged() {
    let c = folder().import(&[matrix(&[1.0, 0.5, 0.501, 1.0]), count(1)]).unwrap().second_moment;
    assert_eq!(c[1], c[2]);
    assert!((c[1] - 0.5005).abs() < 1e-6);
}

#[test]
fn broken_files_name_the_array_and_a_remedy() {
    let good = [1.0, 0.0, 0.0, 1.0];
    let half = ("mom2.mom2", npy("<f2", "(2, 2)", &[0; 8]));
    let whole = ("mom2.mom2", npy("<i8", "(2, 2)", &[0; 32]));
    let float = ("mom2.count", npy("<f8", "()", &1f64.to_le_bytes()));
    let list = ("mom2.count", npy("<i8", "(1,)", &1i64.to_le_bytes()));
    let wide = ("mom2.mom2", npy("<f8", "(2, 2, 1)", &[0; 32]));
    let cut = ("mom2.mom2", npy("<f8", "(2, 2)", &[0; 31]));
    let long = ("mom2.mom2", npy("<f8", "(2, 2)", &[0; 33]));
    let python = ("mom2.mom2", npy("|O", "(2, 2)", &[0; 32]));
    let huge = ("mom2.mom2", npy("<f8", "(99999999999, 99999999999)", &[0; 32]));
    let bomb = ("mom2.mom2", npy("<f8", "(2, 2)", &vec![0; 64 << 20]));
    let parens = npy("<f8", &"(".repeat(60_000), &[]);
    let f = folder();
    for (arrays, array, what) in [
        (vec![count(1)], "mom2.mom2", "holds mom2.count"),
        (vec![matrix(&good)], "mom2.count", "holds mom2.mom2"),
        (vec![matrix(&good), count(0)], "mom2.count", "is 0"),
        (vec![matrix(&good), count(-5)], "mom2.count", "is -5"),
        (vec![matrix(&[1.0, f64::NAN, 0.0, 1.0]), count(1)], "mom2.mom2", "entry (0, 1)"),
        (vec![matrix(&[1.0, 0.0, 0.0, f64::INFINITY]), count(1)], "mom2.mom2", "entry (1, 1)"),
        (vec![matrix(&[1.0, 0.5, 0.1, 1.0]), count(1)], "mom2.mom2", "(1, 0) and (0, 1)"),
        (vec![matrix(&[-1.0, 0.0, 0.0, 1.0]), count(1)], "mom2.mom2", "no second moment"),
        (vec![half, count(1)], "mom2.mom2", "<f2', not f4 or f8"),
        (vec![whole, count(1)], "mom2.mom2", "<i8', not f4 or f8"),
        (vec![matrix(&good), float], "mom2.count", "<f8', not i4 or i8"),
        (vec![matrix(&good), list], "mom2.count", "the shape [1] and is no single number"),
        (vec![wide, count(1)], "mom2.mom2", "[2, 2, 1]"),
        (vec![cut, count(1)], "mom2.mom2", "cannot be read"),
        (vec![long, count(1)], "mom2.mom2", "after its last number"),
        (vec![python, count(1)], "mom2.mom2", ""),
        (vec![huge, count(1)], "mom2.mom2", ""),
        (vec![bomb, count(1)], "mom2.mom2", "after its last number"),
        (vec![("mom2.mom2", parens), count(1)], "mom2.mom2", ""),
        (vec![("mom2.mom2", b"not an array".to_vec()), count(1)], "mom2.mom2", "cannot be read"),
    ] {
        let error = f.import(&arrays).unwrap_err();
        assert_eq!(error.remedy().unwrap().operation, Some(Operation::CollectStatistics));
        let error = error.to_string();
        let start = format!("c.npz: {array}: ");
        assert!(error.contains(&start) && error.contains(what), "{what}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn damaged_archives_are_refused() {
    let f = folder();
    let path = f.file(&[matrix(&[1.0, 0.0, 0.0, 1.0]), count(1)]);
    let whole = fs::read(&path).unwrap();
    for cut in [0, 1, 30, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        let error = import::npz(&path, 0, 2, "m").unwrap_err().to_string();
        assert!(error.contains("c.npz: npz: is no whole archive"), "{cut}: {error}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        fs::write(&path, &bytes).unwrap();
        if let Ok(moment) = import::npz(&path, 0, 2, "m") {
            assert_eq!(moment.second_moment, [1.0, 0.0, 0.0, 1.0], "byte {at}");
        }
    }
    fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n").unwrap();
    let error = import::npz(&path, 0, 2, "m").unwrap_err().to_string();
    assert!(error.contains("c.npz: file: is a Git LFS pointer"), "{error}");
    let error = import::npz(Path::new("nowhere.npz"), 0, 2, "m").unwrap_err().to_string();
    assert!(error.contains("nowhere.npz"), "{error}");
}

/// Two folders of statistics, and what merging them says.
fn merged(change: impl Fn(&mut Moment)) -> Result<Moment> {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin { model: "m".into(), corpus: "a".into(), context_length: 8, normed: false };
    let mut one = Moment {
        layer: 3,
        input: Input::Key,
        f: 1,
        tokens: 1,
        second_moment: vec![4.0],
        origin,
        part: None,
    };
    let dirs = [folder.path().join("one"), folder.path().join("two")];
    one.write(&dirs[0]).unwrap();
    (one.tokens, one.second_moment, one.origin.corpus) = (3, vec![8.0], "b".into());
    change(&mut one);
    one.write(&dirs[1]).unwrap();
    let layers = merge::inputs(&dirs)?;
    assert_eq!(layers.keys().collect::<Vec<_>>(), [&LayerInput::from(3)]);
    merge::merge(&layers[&LayerInput::from(3)], 3)
}

#[test]
fn merging_weighs_by_tokens() {
    let all = merged(|_| ()).unwrap();
    assert_eq!((all.tokens, all.second_moment, &all.origin.corpus[..]), (4, vec![7.0], "a+b"));
}

#[test]
fn what_does_not_belong_together_is_not_merged() {
    let error = |change: fn(&mut Moment)| merged(change).unwrap_err().to_string();
    assert!(error(|m| m.origin.model = "n".into()).contains("model: is n, and m before"));
    assert!(error(|m| m.origin.corpus = "c+a".into()).contains("the text a would count twice"));
    assert!(error(|m| m.origin.context_length = 9).contains("context_length: is 9, and 8"));
    assert!(error(|m| m.tokens = u64::MAX).contains("too many"));
    let imported = error(|m| m.origin.context_length = 0);
    assert!(imported.contains("is 0, and 8 before: of imported statistics"), "{imported}");
    let wide = |m: &mut Moment| (m.f, m.second_moment) = (2, vec![1.0, 0.0, 0.0, 1.0]);
    assert!(error(wide).contains("has 2 neurons, and 1 before"));
    let empty = tempfile::tempdir().unwrap();
    let error = merge::inputs(&[empty.path().to_owned()]).unwrap_err().to_string();
    assert!(error.contains("holds no statistics"), "{error}");
}

#[test]
fn statistics_of_another_origin_are_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin { model: "m".into(), corpus: "a".into(), context_length: 8, normed: false };
    let of = |origin: &Origin| Moment {
        layer: 3,
        input: Input::Key,
        f: 1,
        tokens: 1000,
        second_moment: vec![4.0],
        origin: origin.clone(),
        part: None,
    };
    let check = |origin: &Origin, shard: Option<Share>, tokens| {
        Moment::check_overwrite(folder.path(), 3, origin, shard, tokens).map_err(|e| e.to_string())
    };
    let place = |origin: &Origin| check(origin, None, 1000);
    assert_eq!(place(&origin), Ok(()));
    of(&origin).write(folder.path()).unwrap();
    assert_eq!(place(&origin), Ok(()));
    let shard = Some("0/2".parse().unwrap());
    let error = check(&origin, shard, 1000).unwrap_err();
    assert!(error.contains("shard: is none in the file that is there, and 0"), "{error}");
    let error = check(&origin, None, 999).unwrap_err();
    let want =
        "tokens: is 1,000 in the file that is there, and would be 999 of the same text; take";
    assert!(error.contains(want), "{error}");
    // A shard is held to what all shards have together.
    let part = Some(Part { share: "0/2".parse().unwrap(), total_tokens: 2000 });
    Moment { part, ..of(&origin) }.write(folder.path()).unwrap();
    assert_eq!(check(&origin, shard, 2000), Ok(()));
    assert!(check(&origin, shard, 1999).unwrap_err().contains("is 2,000 in the file"));
    of(&origin).write(folder.path()).unwrap();
    for (field, other) in [
        ("model", Origin { model: "n".into(), ..origin.clone() }),
        ("corpus", Origin { corpus: "npz-1".into(), ..origin.clone() }),
        ("context_length", Origin { context_length: 9, ..origin.clone() }),
    ] {
        let error = place(&other).unwrap_err();
        assert!(error.contains(&format!("layer-3.safetensors: {field}: is ")), "{error}");
        assert!(error.contains("another folder"), "{error}");
    }
    fs::write(Moment::path(folder.path(), 3), "no statistics").unwrap();
    assert!(place(&origin).is_err());
}

#[test]
fn layers_are_named_in_one_way() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["layer-1", "layer-01", "layer-+2", "layer--3", "layer-", "layer-4x"] {
        fs::write(folder.path().join(format!("{name}.safetensors")), "").unwrap();
    }
    let folders = [folder.path().to_owned()];
    let layers = merge::inputs(&folders).unwrap();
    assert_eq!(layers.into_keys().collect::<Vec<_>>(), [LayerInput::from(1)]);
}
