//! What went wrong.

use std::any::Any;
use std::ffi::{CString, c_char};
use std::ptr;

use incise::base::escape;
use incise::base::remedy::{Setting, SettingKind};
use incise::{Error, Remedy};

/// What went wrong, and what to do about it. It belongs to the caller, who frees it by
/// incise_error_free. It never changes, so several threads may read it.
pub struct ErrorHandle {
    code: CString,
    message: CString,
    file: Option<CString>,
    field: Option<CString>,
    remedy: Option<CString>,
}

impl ErrorHandle {
    /// Of an argument that cannot be used; `name` is its name in the header.
    pub(crate) fn argument(name: &str, what: &str, remedy: &str) -> ErrorHandle {
        ErrorHandle {
            code: c_string("argument"),
            message: c_string(&format!("{name}: {what}; {remedy}")),
            file: None,
            field: Some(c_string(name)),
            remedy: Some(c_string(remedy)),
        }
    }

    /// Of what unwound from inside the engine: an error on its way out, or a mistake of ours.
    pub(crate) fn panic(payload: Box<dyn Any + Send>) -> ErrorHandle {
        const REMEDY: &str = "report it, with what was asked for; the handles serve on";
        let payload = match payload.downcast::<Error>() {
            Ok(error) => return ErrorHandle::from(*error),
            Err(payload) => payload,
        };
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let what = format!("a mistake inside incise: {}", text.unwrap_or("it says nothing"));
        ErrorHandle {
            code: c_string("panic"),
            message: c_string(&escape::one_line(&format!("{what}; {REMEDY}"))),
            file: None,
            field: None,
            remedy: Some(c_string(REMEDY)),
        }
    }
}

impl From<Error> for ErrorHandle {
    fn from(e: Error) -> ErrorHandle {
        let remedy = e.remedy();
        let settings = remedy.as_ref().map_or(String::new(), settings);
        ErrorHandle {
            code: c_string(e.code()),
            message: c_string(&escape::one_line(&(e.line() + &settings))),
            file: e.file().map(|file| c_string(&file.display().to_string())),
            field: e.field().map(c_string),
            remedy: remedy.map(|remedy| c_string(&(remedy.text + &settings))),
        }
    }
}

/// A remedy's settings as they are given here: ` (hyperparameters.emmet_lambda = 0.1)`.
pub(crate) fn settings(remedy: &Remedy) -> String {
    let operation = remedy.operation.map(|operation| format!("`incise {}`", operation.command()));
    let setting = |Setting { kind, name, value }: &Setting| {
        let name = match (kind, &name[..]) {
            (SettingKind::Hyperparameter, name) => format!("hyperparameters.{name}"),
            (SettingKind::Option, "statistics") => "stats".to_owned(),
            (SettingKind::Option, name) => name.to_owned(),
        };
        value.as_ref().map_or(name.clone(), |value| format!("{name} = {value}"))
    };
    let all: Vec<String> =
        operation.into_iter().chain(remedy.settings.iter().map(setting)).collect();
    if all.is_empty() { String::new() } else { format!(" ({})", all.join(" or ")) }
}

/// A text for C, in which a zero byte ends it: one inside is replaced.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).expect("no zero byte is left")
}

fn read(error: Option<&ErrorHandle>, of: fn(&ErrorHandle) -> Option<&CString>) -> *const c_char {
    error.and_then(of).map_or(ptr::null(), |text| text.as_ptr())
}

/// The kind of failure, for programs: "io", "input", "conflict", "locked", "refused", "numeric",
/// "device", "device-memory", "abort-build", "interrupted" are the engine's; "argument" is a null
/// pointer or a text that is not UTF-8, "panic" a mistake inside incise. Valid until the error is
/// freed; null for a null error, as with the functions below.
#[unsafe(no_mangle)]
pub extern "C" fn incise_error_code(error: Option<&ErrorHandle>) -> *const c_char {
    read(error, |e| Some(&e.code))
}

/// All of it on one line: what went wrong, its causes, and the remedy last. Valid until the error
/// is freed.
#[unsafe(no_mangle)]
pub extern "C" fn incise_error_message(error: Option<&ErrorHandle>) -> *const c_char {
    read(error, |e| Some(&e.message))
}

/// The file or folder it is about, or the name of an input that is no file; null where there is
/// none. Valid until the error is freed.
#[unsafe(no_mangle)]
pub extern "C" fn incise_error_file(error: Option<&ErrorHandle>) -> *const c_char {
    read(error, |e| e.file.as_ref())
}

/// The field, tensor or line inside it, or the argument of the function; null where there is none.
/// Valid until the error is freed.
#[unsafe(no_mangle)]
pub extern "C" fn incise_error_field(error: Option<&ErrorHandle>) -> *const c_char {
    read(error, |e| e.field.as_ref())
}

/// What to do about it; null where nothing is known. In parentheses are settings that help, by
/// their names in incise_plan's document or incise_open's arguments, or a command of the program.
/// Valid until the error is freed.
#[unsafe(no_mangle)]
pub extern "C" fn incise_error_remedy(error: Option<&ErrorHandle>) -> *const c_char {
    read(error, |e| e.remedy.as_ref())
}

/// Frees an error; null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn incise_error_free(error: Option<Box<ErrorHandle>>) {
    drop(error);
}
