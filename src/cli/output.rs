//! The terminal: results, progress that erases itself, warnings, and quantities with their units.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::flags::flags;
use super::stages::{StageTime, Stages};
use crate::base::{Error, Progress, Result, Stage};
use crate::store::write;

/// Cancels at the n-th time that the work asks: for tests, which cannot time a signal.
const CANCEL_AT: &str = "INCISE_CANCEL_AT";

/// Standard output and standard error, and whether the user cancelled.
#[derive(Clone)]
pub struct Terminal {
    cancelled: Arc<AtomicBool>,
    /// How often the work may ask before it is cancelled, where that is limited.
    questions: Option<Arc<AtomicI64>>,
    bar: Arc<Mutex<Option<(Stage, ProgressBar)>>>,
    stages: Arc<Mutex<Stages>>,
}

/// Whether an error only says that nobody reads our output any more.
pub fn reader_left(e: &Error) -> bool {
    matches!(e, Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

impl Terminal {
    /// The process's own; from here on Ctrl-C cancels, and a second one ends the process.
    pub fn new() -> Terminal {
        let cancelled = Arc::new(AtomicBool::new(false));
        let asked = cancelled.clone();
        // A handler that is there already is not ours to replace; Ctrl-C then ends the process.
        let _ = ctrlc::set_handler(move || {
            if asked.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        });
        let limit = std::env::var(CANCEL_AT).ok().and_then(|n| n.parse::<i64>().ok());
        let questions = limit.map(|n| Arc::new(AtomicI64::new(n - 1)));
        Terminal { cancelled, questions, bar: Arc::default(), stages: Arc::default() }
    }

    /// A line of the result.
    pub fn line(&self, text: impl AsRef<str>) -> Result<()> {
        self.text(&format!("{}\n", text.as_ref()))
    }

    /// A line before the work is done, which goes on if nobody reads any more.
    pub fn remark(&self, text: impl AsRef<str>) -> Result<()> {
        self.line(text).or_else(|e| if reader_left(&e) { Ok(()) } else { Err(e) })
    }

    /// Some of the result, shown at once.
    pub fn text(&self, text: &str) -> Result<()> {
        self.clear();
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.map_err(|e| Error::io("standard output", "write", e))
    }

    /// The whole result, for machines.
    pub fn json(&self, value: &serde_json::Value) -> Result<()> {
        self.line(value.to_string())
    }

    /// Why the command failed: the chain of causes on one line, and what to do.
    pub fn error(&self, e: &Error) {
        let flags = e.remedy().map(|remedy| flags(&remedy)).unwrap_or_default();
        self.say(&format!("incise: {}{flags}", e.line()));
    }

    /// Begins a stage of the work.
    pub fn enter(&self, stage: Stage) {
        self.stages.lock().expect("no thread panics while it enters").enter(stage);
    }

    /// What was done so far, stage by stage.
    pub fn stages(&self) -> Vec<StageTime> {
        self.stages.lock().expect("no thread panics while it enters").all()
    }

    /// Ends the progress line, if there is one.
    pub fn clear(&self) {
        let mut bar = self.bar.lock().expect("no thread panics while it draws");
        if let Some((_, bar)) = bar.take() {
            bar.finish_and_clear();
        }
    }

    #[allow(clippy::print_stderr)] // the one place
    fn say(&self, text: &str) {
        self.clear();
        eprintln!("{text}");
    }
}

impl Progress for Terminal {
    fn at(&self, stage: Stage, done: u64, total: u64) {
        let mut slot = self.bar.lock().expect("no thread panics while it draws");
        if slot.as_ref().is_none_or(|(shown, _)| *shown != stage) {
            if stage == Stage::Step && slot.as_ref().is_some_and(|(shown, _)| *shown == Stage::Fact)
            {
                return; // facts already show how far we are
            }
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = "{prefix} {wide_bar} {human_pos}/{human_len}  {per_sec}  {eta} left  {msg}";
            bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
            bar.set_prefix(stage.name());
            *slot = Some((stage, bar));
            self.enter(stage);
        }
        if let Some((_, bar)) = slot.as_ref() {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    fn detail(&self, words: &str) {
        let slot = self.bar.lock().expect("no thread panics while it draws");
        if let Some((_, bar)) = slot.as_ref() {
            bar.set_message(words.to_owned());
        }
    }

    fn warn(&self, sentence: &str) {
        self.say(&format!("warning: {sentence}"));
    }

    fn cancelled(&self) -> bool {
        let last = |left: &Arc<AtomicI64>| left.fetch_sub(1, Ordering::SeqCst) <= 0;
        self.questions.as_ref().is_some_and(last) || self.cancelled.load(Ordering::SeqCst)
    }
}

/// Refuses, before any work, a file that could not be written after it, or that would replace one
/// of the `inputs` (files, or folders with all that is in them).
pub fn check_place(file: &Path, inputs: &[&Path]) -> Result<()> {
    let folder = write::folder(file);
    if file.is_dir() || file.file_name().is_none() {
        return Err(Error::input(file, "output", "is a folder", "name a file"));
    }
    let place = folder.canonicalize().map_err(|e| Error::io(folder, "open", e))?;
    let place = place.join(file.file_name().unwrap_or_default());
    let inputs = inputs.iter().filter_map(|input| input.canonicalize().ok());
    if inputs.into_iter().any(|input| place.starts_with(input)) {
        let what = "would be written over what the command reads";
        return Err(Error::input(file, "output", what, "name a file elsewhere"));
    }
    // What can be made there now can, most likely, be made there later.
    let made = tempfile::tempfile_in(folder).map(drop);
    made.map_err(|e| Error::io(folder, "write a file in", e))
}

/// Refuses outputs of one name.
pub fn check_distinct(outputs: &[&Path]) -> Result<()> {
    let place = |file: &&Path| {
        let folder = write::folder(file).canonicalize().unwrap_or_default();
        folder.join(file.file_name().unwrap_or_default())
    };
    let places: Vec<_> = outputs.iter().map(place).collect();
    for (i, file) in outputs.iter().enumerate() {
        let inside = |other: &std::path::PathBuf| places[i].starts_with(other);
        if places[..i].iter().any(inside) || places[i + 1..].contains(&places[i]) {
            let what = "is the place of another output";
            return Err(Error::input(file, "output", what, "name a file elsewhere"));
        }
    }
    Ok(())
}

/// Refuses a place where something stands that is not `ours`, which would be lost.
pub fn check_replaced(file: &Path, ours: bool, what: &str) -> Result<()> {
    if ours || !file.exists() {
        return Ok(());
    }
    let what = format!("stands there already and is no {what}");
    Err(Error::input(file, "-o", what, "name another file, or remove this one"))
}

/// `12,345`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|g| std::str::from_utf8(g).expect("digits are ASCII"))
        .collect();
    groups.join(",")
}

/// `1 fact`, `1,234 facts`.
pub fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", count(n), if n == 1 { "" } else { "s" })
}

/// A number with three significant digits and a metric prefix: `8.45 M`.
pub fn metric(n: f64) -> String {
    let (value, prefix) = match n {
        n if n >= 1e12 => (n / 1e12, " T"),
        n if n >= 1e9 => (n / 1e9, " G"),
        n if n >= 1e6 => (n / 1e6, " M"),
        n if n >= 1e3 => (n / 1e3, " k"),
        n => (n, " "),
    };
    let digits = if value >= 100.0 { 0 } else { usize::from(value < 10.0) + 1 };
    format!("{value:.digits$}{prefix}")
}

/// A part as a percentage with as many digits as say something: `0.13 %`, `96 %`.
pub fn percent(part: f64) -> String {
    let p = 100.0 * part;
    let digits =
        if p >= 99.95 || p == 0.0 { 0 } else { usize::from(p < 10.0) + usize::from(p < 1.0) };
    if p > 0.0 && p < 0.01 { format!("{p:.0e} %") } else { format!("{p:.digits$} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_units() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "fact"), "1 fact");
        assert_eq!(counted(2000, "fact"), "2,000 facts");
        assert_eq!(metric(8_451_072.0), "8.45 M");
        assert_eq!(metric(124e6), "124 M");
        assert_eq!(metric(12.0), "12.0 ");
        assert_eq!(percent(0.5), "50 %");
        assert_eq!(percent(0.0123), "1.2 %");
        assert_eq!(percent(0.00123), "0.12 %");
        assert_eq!(percent(1e-7), "1e-5 %");
        assert_eq!(percent(1.0), "100 %");
    }
}
