//! The environment of chat templates, and the limits on them.
//!
//! A template comes with a checkpoint, so it is untrusted code. It may take `MAX_STEPS` steps and
//! output `MAX_BYTES` bytes, and what it outputs may be nested `MAX_DEPTH` deep: a namespace that
//! contains itself is infinitely deep. Text is indented and padded by at most `MAX_COLUMNS`
//! columns. A template runs on a thread with `STACK` bytes of stack, enough to drop the deepest
//! value that its steps can build.
//!
//! Not limited are the memory of strings that a template joins with `~`, `+`, `join` or `replace`
//! and does not output, each up to twice as long as the last, and the depth of a namespace that
//! contains itself and is converted to text or compared inside the template. These abort the
//! process, and do no other harm.

use std::io::{self, Write};
use std::thread;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, StringInput, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Template, Value, escape_formatter, filters};
use minijinja_contrib::pycompat;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Steps a template may take; the longest in use take some ten thousand.
const MAX_STEPS: u64 = 1_000_000;
/// Size of a template's output, and of one value in it.
const MAX_BYTES: usize = 1 << 20;
/// How deep a value in the output may be nested.
const MAX_DEPTH: usize = 128;
/// Columns that text may be indented or padded by.
const MAX_COLUMNS: usize = 4096;
/// Bytes of stack; only those that are touched take memory.
const STACK: usize = 1 << 28;

type Rendered<T> = Result<T, Error>;

/// The environment of the transformers library: trimmed blocks, Python's string methods, `tojson`,
/// `raise_exception`, `strftime_now`.
pub(super) fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the standard delimiters"));
    env.set_fuel(Some(MAX_STEPS));
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_formatter(|out, state, value| {
        check_value(value)?;
        escape_formatter(out, state, value)
    });
    env.set_unknown_method_callback(method);
    env.add_filter("tojson", tojson);
    env.add_filter("indent", indent);
    env.add_filter("format", |state: &mut State, text: &Value, values: Rest<ValueOrKwargs>| {
        check_format(text)?;
        filters::format(state, text, values)
    });
    let refuse = |why: String| Err::<String, _>(refused(format!("the template says: {why}")));
    env.add_function("raise_exception", refuse);
    env.add_function("strftime_now", clock());
    env
}

/// The local time, asked once, so that all chats of a run have the same time.
#[cfg(feature = "clock")]
fn clock() -> impl Fn(String) -> Rendered<String> {
    let now = jiff::Zoned::now();
    move |format| jiff::fmt::strtime::format(&format, &now).map_err(|e| refused(e.to_string()))
}

#[cfg(not(feature = "clock"))]
fn clock() -> impl Fn(String) -> Rendered<String> {
    |_| Err(refused("it asks for the date, which a build without the feature `clock` cannot tell"))
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

/// The output of a template.
pub(super) fn render(template: &Template, context: Value) -> Rendered<String> {
    with_large_stack(|| {
        let mut output = Limited { bytes: vec![], full: false };
        match template.render_captured_to(context, &mut output) {
            Err(_) if output.full => Err(refused(format!("it outputs over {MAX_BYTES} bytes"))),
            Err(e) => Err(e),
            Ok(_) => String::from_utf8(output.bytes).map_err(|e| refused(e.to_string())),
        }
    })
}

/// Runs `f` on a thread with `STACK` bytes of stack.
pub(super) fn with_large_stack<T: Send>(f: impl FnOnce() -> Rendered<T> + Send) -> Rendered<T> {
    thread::scope(|scope| {
        let run = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, f);
        let run = run.map_err(|e| refused(format!("no thread to run it: {e}")))?;
        run.join().unwrap_or_else(|_| Err(refused("it panicked")))
    })
}

/// A buffer that refuses more than `MAX_BYTES`.
struct Limited {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.full |= self.bytes.len() + bytes.len() > MAX_BYTES;
        if self.full {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Refuses a value that is too large or too deep to be output.
fn check_value(value: &Value) -> Rendered<()> {
    fn walk(value: &Value, depth: usize, left: &mut usize) -> Rendered<()> {
        let size = 1 + value.as_str().map_or(0, str::len);
        *left = left.checked_sub(size).ok_or_else(|| {
            refused(format!("a value of over {MAX_BYTES} bytes cannot be output"))
        })?;
        let map = match value.kind() {
            ValueKind::Map => true,
            ValueKind::Seq | ValueKind::Iterable => false,
            _ => return Ok(()),
        };
        if depth == MAX_DEPTH {
            return Err(refused(format!("a value nested over {MAX_DEPTH} deep cannot be output")));
        }
        for item in value.try_iter()? {
            walk(&item, depth + 1, left)?;
            if map {
                walk(&value.get_item(&item)?, depth + 1, left)?;
            }
        }
        Ok(())
    }
    walk(value, 0, &mut MAX_BYTES.clone())
}

/// Refuses a format with a width or a precision that is too large, or given as a value.
fn check_format(text: &Value) -> Rendered<()> {
    let text = text.as_str().unwrap_or_default();
    let wide = |(at, _): (usize, &str)| {
        let digits = text[at + 1..].trim_start_matches(['0', '-', '+', ' ', '#']);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let large = digits[..end].parse().map_or(end > 0, |n: usize| n > MAX_COLUMNS);
        large || digits.starts_with('*')
    };
    if text.match_indices(['%', '.', ':', '<', '>', '^', '=', ')']).any(wide) {
        return Err(refused(format!("a format is wider than {MAX_COLUMNS} columns")));
    }
    Ok(())
}

fn indent(
    text: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Rendered<Value> {
    let columns = if width.is_some() { width } else { options.get("width")? };
    if columns.is_some_and(|width| width > MAX_COLUMNS) {
        return Err(refused(format!("an indent is wider than {MAX_COLUMNS} columns")));
    }
    filters::indent(text, width, first, blank, options)
}

/// Python's string methods.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Rendered<Value> {
    match (name, value.as_str()) {
        ("partition", Some(text)) => {
            let separator = args.first().and_then(Value::as_str).filter(|s| !s.is_empty());
            let separator = separator.ok_or_else(|| refused("partition: no separator"))?;
            let parts = match text.split_once(separator) {
                Some((head, tail)) => [head, separator, tail],
                None => [text, "", ""],
            };
            return Ok(Tuple::from(parts.map(Value::from)).into());
        }
        ("format", Some(_)) => check_format(value)?,
        _ => {}
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

/// Python's `json.dumps`, by default with `ensure_ascii=False`.
fn tojson(value: Value, options: Kwargs) -> Rendered<String> {
    check_value(&value)?;
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let default = if indent.is_some() { [",", ": "] } else { [", ", ": "] };
    let separators = separators.unwrap_or_else(|| default.map(String::from).to_vec());
    let [item, key] = <[String; 2]>::try_from(separators)
        .map_err(|_| refused("separators: not one for items and one for keys"))?;
    let indent = indent.map(|n| n.min(64));
    let mut out = vec![];
    let python = Python { item, key, indent, ascii, depth: 0, empty: true };
    let mut to = Serializer::with_formatter(&mut out, python);
    let written = if sorted {
        serde_json::to_value(&value).and_then(|mut value| {
            value.sort_all_objects();
            value.serialize(&mut to)
        })
    } else {
        value.serialize(&mut to)
    };
    written.map_err(|e| refused(e.to_string()))?;
    String::from_utf8(out).map_err(|e| refused(e.to_string()))
}

/// JSON as Python writes it.
struct Python {
    item: String,
    key: String,
    indent: Option<usize>,
    ascii: bool,
    depth: usize,
    empty: bool,
}

impl Python {
    fn open<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &str) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        out.write_all(bracket.as_bytes())
    }

    fn close<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &str) -> io::Result<()> {
        self.depth -= 1;
        if !self.empty {
            self.line(out)?;
        }
        self.empty = false;
        out.write_all(bracket.as_bytes())
    }

    fn next<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.line(out)
    }

    /// A new line, where there is an indent.
    fn line<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        let Some(indent) = self.indent else { return Ok(()) };
        write!(out, "\n{:1$}", "", indent * self.depth)
    }
}

impl Formatter for Python {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, "[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, "]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, "{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, "}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, s: &str) -> io::Result<()> {
        let mut rest = s;
        while let Some(at) = rest.find(|c: char| self.ascii && !c.is_ascii()) {
            let (plain, from) = rest.split_at(at);
            out.write_all(plain.as_bytes())?;
            let c = from.chars().next().unwrap_or_default();
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = &from[c.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }
}
