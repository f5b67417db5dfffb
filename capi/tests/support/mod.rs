//! A copy of the demo model, and C's side of the border.

use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::ptr;

use incise_c::edit::EditHandle;
use incise_c::editor::{EditorHandle, incise_open, incise_plan};
use incise_c::error::*;
use incise_c::progress::CallerProgress;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A copy of the model that ships with the program, which a test may change.
pub struct Copy(TempDir);

impl Copy {
    pub fn new() -> Copy {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir_all(model.join("stats")).unwrap();
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo");
        for file in [
            "config.json",
            "contexts.json",
            "hparams.json",
            "model.safetensors",
            "stats/layer-0.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            fs::copy(demo.join(file), model.join(file)).unwrap();
        }
        Copy(folder)
    }

    pub fn dir(&self) -> String {
        self.0.path().join("model").to_str().unwrap().to_owned()
    }

    /// A place beside the model.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An edit of one fact, by the settings of the folder.
    pub fn document(&self) -> Value {
        let dir = self.dir();
        json!({
            "requests": [fact()], "method": "r-rome", "stats": format!("{dir}/stats"),
            "hparams": format!("{dir}/hparams.json"), "contexts": format!("{dir}/contexts.json"),
        })
    }
}

/// A fact that the demo model takes.
pub fn fact() -> Value {
    json!({"prompt": "{} played the", "subject": "Louis Armstrong", "target_new": "violin"})
}

/// A text as C has it.
pub fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// A text that C got; none where it is null.
pub fn text(text: *const c_char) -> Option<String> {
    // SAFETY: what is not null ends in a zero byte, and its owner is there.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned())
}

/// What an error says.
#[derive(Debug)]
pub struct Said {
    pub code: String,
    pub message: String,
    pub file: Option<String>,
    pub field: Option<String>,
    pub remedy: Option<String>,
}

/// What an error that is freed said.
fn taken(error: *mut ErrorHandle) -> Said {
    // SAFETY: it is an error that a function gave, and it is freed once.
    let error = unsafe { Box::from_raw(error) };
    let said = Said {
        code: text(incise_error_code(Some(&error))).unwrap(),
        message: text(incise_error_message(Some(&error))).unwrap(),
        file: text(incise_error_file(Some(&error))),
        field: text(incise_error_field(Some(&error))),
        remedy: text(incise_error_remedy(Some(&error))),
    };
    incise_error_free(Some(error));
    said
}

/// The error of a call that must fail.
pub fn said(call: impl FnOnce(Option<&mut MaybeUninit<*mut ErrorHandle>>) -> bool) -> Said {
    let mut place = MaybeUninit::uninit();
    assert!(!call(Some(&mut place)), "it did not fail");
    // SAFETY: every call writes its place.
    taken(unsafe { place.assume_init() })
}

pub fn open(copy: &Copy) -> Box<EditorHandle> {
    let dir = c(&copy.dir());
    // SAFETY: the text ends in a zero byte.
    unsafe { incise_open(dir.as_ptr(), ptr::null(), 1, None) }.unwrap()
}

pub fn plan(
    editor: &EditorHandle,
    document: &Value,
    progress: Option<&CallerProgress>,
) -> Result<Box<EditHandle>, Said> {
    let (json, mut place) = (c(&document.to_string()), MaybeUninit::uninit());
    // SAFETY: the text ends in a zero byte.
    let edit = unsafe { incise_plan(Some(editor), json.as_ptr(), progress, Some(&mut place)) };
    // SAFETY: the call wrote its place.
    let error = unsafe { place.assume_init() };
    assert_eq!(edit.is_none(), !error.is_null());
    edit.ok_or_else(|| taken(error))
}
