//! The terminal: results, progress that erases itself, and warnings.
//!
//! What is printed may be the text of others, and is escaped here (`base/escape.rs`). Nothing that
//! cannot be printed ends the work: standard error and what is said on the way are given up, and
//! the result is printed last, when all is written.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::flags::flags;
use crate::base::stages::{StageTime, Stages};
use crate::base::{Error, Progress, Remedy, Result, Stage, escape};

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
    unwritten: Arc<Mutex<Option<Error>>>,
    remarks: bool, // whether they are shown
}

/// What standard output is called in errors.
const OUTPUT: &str = "standard output";
/// What the system says of a full disk, to start again, would do the work twice.
const UNPRINTED: &str = "the work is done, and only its result could not be printed";

/// Whether an error only says that nobody reads our output any more.
pub fn reader_left(e: &Error) -> bool {
    let Error::Io { path, source, .. } = e else { return false };
    path == Path::new(OUTPUT) && source.kind() == io::ErrorKind::BrokenPipe
}

impl Terminal {
    /// The process's own; from here on Ctrl-C and SIGTERM cancel, and a second one ends the
    /// process.
    pub fn new(remarks: bool) -> Terminal {
        let cancelled = Arc::new(AtomicBool::new(false));
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // What is registered runs in this order, so the first signal finds `again` unset, and
            // one that comes in between is not lost. Where the system refuses, it ends the process.
            let _ = flag::register(signal, cancelled.clone());
            let _ = flag::register_conditional_shutdown(signal, 128 + signal, again.clone());
            let _ = flag::register(signal, again.clone());
        }
        let limit = std::env::var(CANCEL_AT).ok().and_then(|n| n.parse::<i64>().ok());
        let questions = limit.map(|n| Arc::new(AtomicI64::new(n - 1)));
        Terminal {
            cancelled,
            questions,
            bar: Arc::default(),
            stages: Arc::default(),
            unwritten: Arc::default(),
            remarks,
        }
    }

    /// A line of the result: one, whatever the text contains.
    pub fn line(&self, text: impl AsRef<str>) -> Result<()> {
        self.write(&format!("{}\n", escape::one_line(text.as_ref())))
    }

    /// A line while the work goes on, which it does if it cannot be written;
    /// [`finish`](Terminal::finish) says so at the end.
    pub fn progress_line(&self, text: impl AsRef<str>) {
        if let Err(e) = self.line(text) {
            self.unwritten.lock().expect("no thread panics while it holds it").get_or_insert(e);
        }
    }

    /// After the work.
    ///
    /// # Errors
    ///
    /// The first line that could not be written while the work went on.
    pub fn finish(&self) -> Result<()> {
        self.unwritten
            .lock()
            .expect("no thread panics while it holds it")
            .take()
            .map_or(Ok(()), Err)
    }

    /// A text that is the result, shown at once; to another program or a file as it is.
    pub fn text(&self, text: &str) -> Result<()> {
        match io::stdout().is_terminal() {
            true => self.write(&escape::lines(text)),
            false => self.write(text),
        }
    }

    /// The whole result, for machines.
    pub fn json(&self, value: &serde_json::Value) -> Result<()> {
        self.write(&format!("{}\n", escape::json(&value.to_string())))
    }

    fn write(&self, text: &str) -> Result<()> {
        self.clear();
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => Error::io(OUTPUT, "write", e),
            _ => Error::refused(format!("{OUTPUT}: cannot write: {e}"), UNPRINTED),
        })
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

    /// Ends the progress line, if there is one.
    pub fn clear(&self) {
        let mut bar = self.bar.lock().expect("no thread panics while it draws");
        if let Some((_, bar)) = bar.take() {
            bar.finish_and_clear();
        }
    }

    /// A line beside the result, for who reads it; unlike `eprintln!`, which panics where nobody
    /// can.
    fn say(&self, text: &str) {
        self.clear();
        let line = format!("{}\n", escape::one_line(text));
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}

impl Progress for Terminal {
    fn at(&self, stage: Stage, done: u64, total: u64) {
        let mut slot = self.bar.lock().expect("no thread panics while it draws");
        if slot.as_ref().is_none_or(|(shown, _)| *shown != stage) {
            if slot.as_ref().is_some_and(|(shown, _)| stage.is_inside(*shown)) {
                return;
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
            bar.set_message(escape::one_line(words).into_owned());
        }
    }

    fn remark(&self, sentence: &str) {
        if self.remarks {
            self.progress_line(sentence);
        }
    }

    fn warn(&self, sentence: &str) {
        self.say(&format!("warning: {sentence}"));
    }

    fn advise(&self, sentence: &str, remedy: &Remedy) {
        self.say(&format!("warning: {sentence}; {remedy}{}", flags(remedy)));
    }

    fn stages(&self) -> Vec<StageTime> {
        self.stages.lock().expect("no thread panics while it enters").all()
    }

    fn cancelled(&self) -> bool {
        let last = |left: &Arc<AtomicI64>| left.fetch_sub(1, Ordering::SeqCst) <= 0;
        self.questions.as_ref().is_some_and(last) || self.cancelled.load(Ordering::SeqCst)
    }
}
