//! What C may do wrong, and what it may do from several threads. The C programs in examples/ go the
//! right way, under sanitizers.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod support;

use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use incise_c::edit::*;
use incise_c::editor::*;
use incise_c::error::*;
use incise_c::progress::CallerProgress;
use incise_c::tensors::*;
use serde_json::{Value, json};

use support::{Copy, Said, c, fact, open, plan, said, text};

#[test]
fn null_is_an_error_that_names_the_argument() {
    let copy = Copy::new();
    let editor = open(&copy);
    let edit = plan(&editor, &copy.document(), None).unwrap();
    let null = ptr::null();
    let (dir, mut length) = (c("dir"), MaybeUninit::uninit());
    // SAFETY: texts are null or end in a zero byte.
    let errors = unsafe {
        [
            ("dir", said(|e| incise_open(null, null, 0, e).is_some())),
            ("editor", said(|e| incise_plan(None, dir.as_ptr(), None, e).is_some())),
            ("json", said(|e| incise_plan(Some(&editor), null, None, e).is_some())),
            ("edit", said(|e| incise_edit_write(None, dir.as_ptr(), e))),
            ("file", said(|e| incise_edit_write(Some(&edit), null, e))),
            ("edit", said(|e| incise_edit_apply(None, dir.as_ptr(), None, e))),
            ("dir", said(|e| incise_edit_apply(Some(&edit), null, None, e))),
            ("edit", said(|e| incise_edit_apply_in_place(None, None, e))),
            ("dir", said(|e| incise_undo(null, None, e))),
            ("edit", said(|e| !incise_edit_patch(None, Some(&mut length), e).is_null())),
            ("length", said(|e| !incise_edit_patch(Some(&edit), None, e).is_null())),
            ("edit", said(|e| !incise_edit_tensors(None, Some(&mut length), e).is_null())),
            ("count", said(|e| !incise_edit_tensors(Some(&edit), None, e).is_null())),
            ("count", said(|e| !incise_edit_tensors_before(Some(&edit), None, e).is_null())),
            ("edit", said(|e| !incise_edit_tensor(None, dir.as_ptr(), e).is_null())),
            ("name", said(|e| !incise_edit_tensor(Some(&edit), null, e).is_null())),
            ("name", said(|e| !incise_edit_tensor_before(Some(&edit), null, e).is_null())),
        ]
    };
    for (name, error) in errors {
        assert_eq!((&*error.code, error.field.as_deref()), ("argument", Some(name)), "{error:?}");
        assert!(error.message.contains("is a null pointer") && error.remedy.is_some(), "{error:?}");
    }
    assert!(incise_edit_facts(None).is_null() && incise_edit_report(None).is_null());
    assert!(incise_error_code(None).is_null() && incise_error_remedy(None).is_null());
    // SAFETY: a null string is ignored; no error is wanted.
    unsafe {
        incise_string_free(ptr::null_mut());
        assert!(!incise_undo(null, None, None));
    }
    incise_error_free(None);
    incise_edit_free(None);
    incise_editor_free(None);
}

#[test]
fn what_is_not_utf8_is_an_error() {
    let copy = Copy::new();
    let editor = open(&copy);
    let bad = CString::new(b"caf\xe9".to_vec()).unwrap();
    let good = c(&copy.dir());
    // SAFETY: texts end in a zero byte.
    let errors = unsafe {
        [
            ("dir", said(|e| incise_open(bad.as_ptr(), ptr::null(), 0, e).is_some())),
            ("device", said(|e| incise_open(good.as_ptr(), bad.as_ptr(), 0, e).is_some())),
            ("json", said(|e| incise_plan(Some(&editor), bad.as_ptr(), None, e).is_some())),
            ("dir", said(|e| incise_undo(bad.as_ptr(), None, e))),
        ]
    };
    for (name, error) in errors {
        assert_eq!((&*error.code, error.field.as_deref()), ("argument", Some(name)), "{error:?}");
        assert!(error.message.contains("is not UTF-8 at byte 3"), "{error:?}");
    }
}

#[test]
fn mistakes_in_a_document_are_named() {
    let copy = Copy::new();
    let editor = open(&copy);
    let with = |field: &str, value: Value| {
        let mut document = copy.document();
        document[field] = value;
        plan(&editor, &document, None).map(drop)
    };
    for (field, value, words) in [
        ("metod", json!("memit"), "is no setting; name one of cache, chat, "),
        ("device", json!("cpu"), "is no setting"),
        ("seed", json!(-1), "is not a whole number from 0: -1"),
        ("without", json!(["a", 1]), "is not a list of texts"),
        ("no_space", json!("yes"), "is not true or false"),
        ("on_broken", json!("ignore"), "is not one of error, skip: \"ignore\""),
        ("chat", json!({"sistem": "Be brief."}), "is not true, false, or an object with system"),
        ("hyperparameters", json!([1]), "is not an object of values by name"),
        ("requests", Value::Null, "is no list, record or path: null"),
        ("requests", json!(3), "is no list, record or path: 3"),
    ] {
        let error = with(field, value).unwrap_err();
        assert_eq!((&*error.code, error.field.as_deref()), ("input", Some(field)), "{error:?}");
        assert!(error.message.contains(words), "{error:?}");
        assert!(error.file.is_some() && error.remedy.is_some(), "{error:?}");
    }
    let error = with("requests", json!("no/such/file.jsonl")).unwrap_err();
    assert_eq!((&*error.code, error.file.as_deref()), ("io", Some("no/such/file.jsonl")));
    let error = with("method", json!("rom")).unwrap_err();
    assert!(error.code == "refused" && error.message.contains("r-rome"), "{error:?}");
    let error = with("requests", json!([fact(), {"prompt": "no target"}])).unwrap_err();
    assert!(error.message.contains("target_new"), "{error:?}");
    for text in ["{", "[]", "{\"seed\": 1, \"seed\": 2}", ""] {
        let json = c(text);
        // SAFETY: the text ends in a zero byte.
        let plan = |e: Place| unsafe { incise_plan(Some(&editor), json.as_ptr(), None, e) };
        let error = said(|e| plan(e).is_some());
        assert_eq!((&*error.code, error.field.as_deref()), ("input", Some("JSON")), "{error:?}");
    }
}

type Place<'a> = Option<&'a mut MaybeUninit<*mut ErrorHandle>>;

#[test]
fn null_and_absent_settings_are_the_same() {
    let copy = Copy::new();
    let editor = open(&copy);
    let mut document = copy.document();
    let patch = |document: &Value| bytes(&plan(&editor, document, None).unwrap());
    let bare = patch(&document);
    for field in ["seed", "chat", "memory", "cache", "without", "precision"] {
        document[field] = Value::Null;
    }
    document["no_space"] = json!(false);
    document["chat"] = json!(false);
    document["on_conflict"] = json!("last");
    assert!(patch(&document) == bare);
    let file = copy.beside("facts.jsonl");
    std::fs::write(&file, fact().to_string()).unwrap();
    for requests in [json!(file), fact()] {
        document["requests"] = requests;
        assert!(patch(&document) == bare, "a list, a record and a file are one");
    }
    document["hyperparameters"] = json!({"v_num_grad_steps": 2});
    assert!(patch(&document) != bare, "hyperparameters count");
}

/// A patch as C gets it.
fn bytes(edit: &EditHandle) -> Vec<u8> {
    let mut length = MaybeUninit::uninit();
    let bytes = incise_edit_patch(Some(edit), Some(&mut length), None);
    assert!(!bytes.is_null());
    // SAFETY: it was not null, so the length is there, and the bytes live as long as the edit.
    unsafe { std::slice::from_raw_parts(bytes, length.assume_init()) }.to_vec()
}

/// Tensors as C gets them.
fn tensors(
    edit: &EditHandle,
    side: extern "C" fn(
        Option<&EditHandle>,
        Option<&mut MaybeUninit<usize>>,
        Place,
    ) -> *const TensorView,
) -> &[TensorView] {
    let mut count = MaybeUninit::uninit();
    let first = side(Some(edit), Some(&mut count), None);
    assert!(!first.is_null());
    // SAFETY: it was not null, so the count is there, and the tensors live as long as the edit.
    unsafe { std::slice::from_raw_parts(first, count.assume_init()) }
}

fn data(tensor: &TensorView) -> &[u8] {
    // SAFETY: a view's pointers are valid as long as the edit.
    unsafe { std::slice::from_raw_parts(tensor.data, tensor.byte_length) }
}

#[test]
fn tensors_are_what_the_files_hold_with_and_without_the_edit() {
    let copy = Copy::new();
    let editor = open(&copy);
    let edit = plan(&editor, &copy.document(), None).unwrap();
    let [after, before] =
        [incise_edit_tensors, incise_edit_tensors_before].map(|s| tensors(&edit, s));
    assert!(after.len() == 1 && before.len() == 1);
    let (name, dtype) = (text(after[0].name).unwrap(), text(after[0].dtype).unwrap());
    assert_eq!((&*name, &*dtype), ("transformer.h.0.mlp.c_proj.weight", "BF16"));
    // SAFETY: as in `data`.
    let shape = unsafe { std::slice::from_raw_parts(after[0].shape, after[0].dimensions) };
    assert_eq!(shape.iter().product::<usize>() * 2, after[0].byte_length);
    let is_in = |bytes: &[u8], file: PathBuf| {
        std::fs::read(file).unwrap().windows(bytes.len()).any(|window| window == bytes)
    };
    let file = PathBuf::from(copy.dir()).join("model.safetensors");
    assert!(is_in(data(&before[0]), file.clone()) && !is_in(data(&after[0]), file.clone()));
    let (folder, mut report) = (copy.beside("edited"), MaybeUninit::uninit());
    let dir = c(folder.to_str().unwrap());
    // SAFETY: the text ends in a zero byte.
    assert!(unsafe { incise_edit_apply(Some(&edit), dir.as_ptr(), Some(&mut report), None) });
    assert!(is_in(data(&after[0]), folder.join("model.safetensors")));
    // SAFETY: apply wrote it, and it is freed once.
    unsafe {
        let said: Value = serde_json::from_str(&text(report.assume_init()).unwrap()).unwrap();
        assert_eq!(said["tensors"][0]["name"], json!(name));
        incise_string_free(report.assume_init());
    }
    let name = c(&name);
    // SAFETY: the name ends in a zero byte.
    let named = unsafe { incise_edit_tensor(Some(&edit), name.as_ptr(), None) };
    assert!(ptr::eq(named, &after[0]), "computed once");
    let other = c("transformer.h.1.mlp.c_proj.weight");
    // SAFETY: as above.
    let find = |e: Place| unsafe { incise_edit_tensor(Some(&edit), other.as_ptr(), e) };
    let error = said(|e| !find(e).is_null());
    assert_eq!((&*error.code, error.field.as_deref()), ("argument", Some("name")));
    assert!(error.message.contains("name one of transformer.h.0.mlp.c_proj.weight"), "{error:?}");
}

#[test]
fn the_patch_is_the_file_that_is_written() {
    let copy = Copy::new();
    let editor = open(&copy);
    let edit = plan(&editor, &copy.document(), None).unwrap();
    let file = copy.beside("facts.patch");
    let path = c(file.to_str().unwrap());
    // SAFETY: the text ends in a zero byte.
    assert!(unsafe { incise_edit_write(Some(&edit), path.as_ptr(), None) });
    assert!(bytes(&edit) == std::fs::read(&file).unwrap());
    let lines = std::fs::read_to_string(copy.beside("facts.patch.report.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let facts: Value =
        serde_json::from_str(&text(incise_edit_facts(Some(&edit))).unwrap()).unwrap();
    assert_eq!(facts, json!(lines));
    assert_eq!((&facts[0]["taken"], &facts[0]["target_new"]), (&json!(true), &json!("violin")));
    let report = text(incise_edit_report(Some(&edit))).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["method"], &report["facts"]), (&json!("r-rome"), &json!(1)));
    assert_eq!(report["layers"][0]["tensor"], "transformer.h.0.mlp.c_proj.weight");
}

/// What callbacks were told.
#[derive(Default)]
struct Told {
    asked: AtomicU64,
    stop_at: u64,
    stages: Mutex<Vec<String>>,
    sentences: Mutex<Vec<String>>,
}

extern "C" fn at(context: *mut c_void, stage: *const c_char, done: u64, total: u64) {
    assert!(done <= total);
    // SAFETY: the context is a `Told` that outlives the edit; texts end in a zero byte.
    unsafe { told(context).stages.lock().unwrap().push(text(stage).unwrap()) };
}

extern "C" fn sentence(context: *mut c_void, sentence: *const c_char) {
    // SAFETY: as above.
    unsafe { told(context).sentences.lock().unwrap().push(text(sentence).unwrap()) };
}

extern "C" fn cancelled(context: *mut c_void) -> bool {
    // SAFETY: as above.
    let told = unsafe { told(context) };
    told.asked.fetch_add(1, Ordering::SeqCst) + 1 >= told.stop_at
}

unsafe fn told<'a>(context: *mut c_void) -> &'a Told {
    // SAFETY: the callers say that it is one.
    unsafe { &*context.cast::<Told>() }
}

fn progress(told: &Told) -> CallerProgress {
    CallerProgress {
        context: ptr::from_ref(told).cast_mut().cast(),
        at: Some(at),
        remark: Some(sentence),
        warn: Some(sentence),
        cancelled: Some(cancelled),
    }
}

#[test]
fn work_is_told_of_and_cancelled() {
    let copy = Copy::new();
    let editor = open(&copy);
    let mut document = copy.document();
    document["hyperparameters"] = json!({"no_such_parameter": 1});
    let all = Told { stop_at: u64::MAX, ..Told::default() };
    let edit = plan(&editor, &document, Some(&progress(&all))).unwrap();
    assert!(all.stages.lock().unwrap().iter().any(|stage| stage == "probability"));
    let sentences = all.sentences.lock().unwrap().join("\n");
    assert!(sentences.contains("`no_such_parameter` does not apply"), "{sentences}");
    let asked = all.asked.load(Ordering::SeqCst);
    assert!(asked > 2);
    for stop_at in [1, asked / 2, asked] {
        let some = Told { stop_at, ..Told::default() };
        let error = plan(&editor, &document, Some(&progress(&some))).err().unwrap();
        assert_eq!(error.code, "interrupted", "{error:?}");
    }
    let before = all.stages.lock().unwrap().len();
    tensors(&edit, incise_edit_tensors);
    assert!(all.stages.lock().unwrap().len() > before, "what is done with the edit tells too");
    let bare = CallerProgress {
        context: ptr::null_mut(),
        at: None,
        remark: None,
        warn: None,
        cancelled: None,
    };
    assert!(plan(&editor, &document, Some(&bare)).is_ok(), "every function may be null");
}

#[test]
fn threads_share_an_editor_and_an_edit() {
    let copy = Copy::new();
    let editor = open(&copy);
    let document = copy.document();
    let edits: Vec<Box<EditHandle>> = std::thread::scope(|scope| {
        let plan = || plan(&editor, &document, None).unwrap();
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(plan)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    incise_editor_free(Some(editor));
    assert!(edits.iter().all(|edit| bytes(edit) == bytes(&edits[0])));
    let places: Vec<usize> = std::thread::scope(|scope| {
        let look = || tensors(&edits[0], incise_edit_tensors)[0].data.addr();
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(look)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(places.iter().all(|&place| place == places[0]), "computed once");
}

#[test]
fn an_editor_refuses_after_its_files_were_changed() {
    let copy = Copy::new();
    let editor = open(&copy);
    let edit = plan(&editor, &copy.document(), None).unwrap();
    let after = data(&tensors(&edit, incise_edit_tensors)[0]).to_vec();
    assert!(incise_edit_apply_in_place(Some(&edit), None, None));
    let error: Said = plan(&editor, &copy.document(), None).err().unwrap();
    assert!(error.code == "input" && error.remedy.is_some(), "{error:?}");
    assert!(data(&tensors(&edit, incise_edit_tensors)[0]) == after, "what was read stays");
    let error = said(|e| {
        !incise_edit_tensors_before(Some(&edit), Some(&mut MaybeUninit::uninit()), e).is_null()
    });
    assert_eq!(error.code, "refused", "{error:?}");
    let (dir, mut report) = (c(&copy.dir()), MaybeUninit::uninit());
    // SAFETY: texts end in a zero byte; undo wrote the report, and it is freed once.
    unsafe {
        assert!(incise_undo(dir.as_ptr(), Some(&mut report), None));
        assert_eq!(text(report.assume_init()).unwrap(), r#"{"rolled_back":false,"undone":[1]}"#);
        incise_string_free(report.assume_init());
        let error = said(|e| incise_undo(dir.as_ptr(), None, e));
        assert!(error.code == "input" || error.code == "refused", "{error:?}");
    }
}

#[test]
fn the_version_is_the_crates() {
    // SAFETY: a text that ends in a zero byte, and stays.
    let version = unsafe { CStr::from_ptr(incise_c::incise_version()) };
    assert_eq!(version.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
}
