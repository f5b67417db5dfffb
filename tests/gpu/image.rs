//! Kernels compiled at first use, where the build did not.

use std::fs;
use std::path::Path;

use incise::gpu::image::compiled;
use incise::gpu::kernels::rows;
use incise::gpu::nvrtc::Nvrtc;

#[test]
fn what_is_compiled_at_first_use_is_kept() {
    if let Err(why) = Nvrtc::find(Path::new(".")) {
        eprintln!("skipped: gpu::image::what_is_compiled_at_first_use_is_kept: {why}");
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let image = |types| compiled(&rows::FILE, types, "compute_80", cache.path());
    let ptx = image(("bf16", "")).unwrap();
    assert!(ptx.ends_with(&[0]), "the driver reads PTX up to a NUL");
    assert!(String::from_utf8_lossy(&ptx).contains(".entry gather_rows"));
    let kept = || fs::read_dir(cache.path()).unwrap().map(|f| f.unwrap().path());
    let [path] = kept().collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(image(("bf16", "")).unwrap(), ptx);
    // What is damaged is made anew.
    let mut damaged = fs::read(&path).unwrap();
    damaged[10] ^= 1;
    fs::write(&path, damaged).unwrap();
    assert_eq!(image(("bf16", "")).unwrap(), ptx);
    // Other types are another image.
    image(("f32", "")).unwrap();
    assert_eq!(kept().count(), 2);
    // A cache that cannot be written costs time only.
    let file = cache.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(compiled(&rows::FILE, ("bf16", ""), "compute_80", &file).unwrap(), ptx);
}
