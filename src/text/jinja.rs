//! What chat templates find around them, and what they may cost.
//!
//! A template comes with a checkpoint, so it is a stranger's program. It may take `FUEL` steps,
//! show `MOST` bytes, and nest what it shows `DEEPEST` deep: a namespace that holds itself has no
//! end. Text is indented and padded by `WIDEST` columns at most. It runs on a thread with a stack
//! of `STACK`, where values as deep as its steps allow can be dropped.
//!
//! What is not bounded here: memory for texts that it joins with `~`, `+`, `join` or `replace` and
//! does not show, each up to twice as long as the last; and the depth of a namespace that holds
//! itself and is turned into text or compared inside the template. These end the program, and
//! nothing else.

use std::io::{self, Write};
use std::thread;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, StringInput, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Template, Value, escape_formatter, filters};
use minijinja_contrib::pycompat;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Steps a template may take; the longest in use take some ten thousand.
const FUEL: u64 = 1_000_000;
/// Bytes that a template, or one value it shows, may have.
pub const MOST: usize = 1 << 20;
/// How deep a value that is shown may be nested.
const DEEPEST: usize = 128;
/// Columns that text may be indented or padded by.
const WIDEST: usize = 4096;
/// Bytes of stack, of which those that are touched cost memory.
const STACK: usize = 1 << 28;

type Made<T> = Result<T, Error>;

/// The transformers library's surroundings: blocks trimmed, Python's methods of texts, `tojson`,
/// `raise_exception`, `strftime_now`.
pub(super) fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the standard delimiters"));
    env.set_fuel(Some(FUEL));
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_formatter(|out, state, value| {
        bounded(value)?;
        escape_formatter(out, state, value)
    });
    env.set_unknown_method_callback(method);
    env.add_filter("tojson", tojson);
    env.add_filter("indent", indent);
    env.add_filter("format", |state: &mut State, text: &Value, values: Rest<ValueOrKwargs>| {
        narrow(text)?;
        filters::format(state, text, values)
    });
    let refuse = |why: String| Err::<String, _>(refused(format!("the template says: {why}")));
    env.add_function("raise_exception", refuse);
    env.add_function("strftime_now", clock());
    env
}

/// The local time, asked once, so that all chats of a run are of one time.
#[cfg(feature = "clock")]
fn clock() -> impl Fn(String) -> Made<String> {
    let now = jiff::Zoned::now();
    move |format| jiff::fmt::strtime::format(&format, &now).map_err(|e| refused(e.to_string()))
}

#[cfg(not(feature = "clock"))]
fn clock() -> impl Fn(String) -> Made<String> {
    |_| Err(refused("it asks for the date, which a build without the feature `clock` cannot tell"))
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

/// What a template shows.
pub(super) fn render(template: &Template, context: Value) -> Made<String> {
    deep(|| {
        let mut shown = Limited { bytes: vec![], full: false };
        match template.render_captured_to(context, &mut shown) {
            Err(_) if shown.full => Err(refused(format!("it shows more than {MOST} bytes"))),
            Err(e) => Err(e),
            Ok(_) => String::from_utf8(shown.bytes).map_err(|e| refused(e.to_string())),
        }
    })
}

/// Runs `f` with a stack of its own.
pub(super) fn deep<T: Send>(f: impl FnOnce() -> Made<T> + Send) -> Made<T> {
    thread::scope(|scope| {
        let run = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, f);
        let run = run.map_err(|e| refused(format!("no thread for it: {e}")))?;
        run.join().unwrap_or_else(|_| Err(refused("it cannot be run")))
    })
}

struct Limited {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.full |= self.bytes.len() + bytes.len() > MOST;
        if self.full {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Refuses a value that is too large or too deep to be shown.
fn bounded(value: &Value) -> Made<()> {
    fn walk(value: &Value, deep: usize, left: &mut usize) -> Made<()> {
        let size = 1 + value.as_str().map_or(0, str::len);
        *left = left.checked_sub(size).ok_or_else(|| {
            refused(format!("a value with more than {MOST} bytes cannot be shown"))
        })?;
        let map = match value.kind() {
            ValueKind::Map => true,
            ValueKind::Seq | ValueKind::Iterable => false,
            _ => return Ok(()),
        };
        if deep == DEEPEST {
            return Err(refused(format!("a value nested over {DEEPEST} deep cannot be shown")));
        }
        for item in value.try_iter()? {
            walk(&item, deep + 1, left)?;
            if map {
                walk(&value.get_item(&item)?, deep + 1, left)?;
            }
        }
        Ok(())
    }
    walk(value, 0, &mut MOST.clone())
}

/// Refuses a format with a width or a precision that is too large, or given as a value.
fn narrow(text: &Value) -> Made<()> {
    let text = text.as_str().unwrap_or_default();
    let wide = |(at, _): (usize, &str)| {
        let digits = text[at + 1..].trim_start_matches(['0', '-', '+', ' ', '#']);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let large = digits[..end].parse().map_or(end > 0, |n: usize| n > WIDEST);
        large || digits.starts_with('*')
    };
    match text.match_indices(['%', '.', ':', '<', '>', '^', '=', ')']).any(wide) {
        true => Err(refused(format!("a format is wider than {WIDEST} columns"))),
        false => Ok(()),
    }
}

fn indent(
    text: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Made<Value> {
    let said = if width.is_some() { width } else { options.get("width")? };
    if said.is_some_and(|width| width > WIDEST) {
        return Err(refused(format!("an indent is wider than {WIDEST} columns")));
    }
    filters::indent(text, width, first, blank, options)
}

/// Python's methods.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Made<Value> {
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
        ("format", Some(_)) => narrow(value)?,
        _ => {}
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

/// Python's `json.dumps`, without escapes for other scripts unless they are asked for.
fn tojson(value: Value, options: Kwargs) -> Made<String> {
    bounded(&value)?;
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
    let (mut out, python) = (vec![], Python { item, key, indent, ascii, deep: 0, empty: true });
    let mut to = Serializer::with_formatter(&mut out, python);
    let written = match sorted {
        true => serde_json::to_value(&value).and_then(|mut value| {
            value.sort_all_objects();
            value.serialize(&mut to)
        }),
        false => value.serialize(&mut to),
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
    deep: usize,
    empty: bool,
}

impl Python {
    fn open<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &str) -> io::Result<()> {
        (self.deep, self.empty) = (self.deep + 1, true);
        out.write_all(bracket.as_bytes())
    }

    fn close<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &str) -> io::Result<()> {
        self.deep -= 1;
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
        write!(out, "\n{:1$}", "", indent * self.deep)
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
