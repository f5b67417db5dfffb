//! Long work: a thread of its own computes, while the caller's waits without the interpreter's
//! lock. Between waits that one shows how the work goes and looks for signals, so that Ctrl-C stops
//! the work: the engine keeps what is finished, and says what that is.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use incise::base::stages::{StageTime, Stages};
use incise::{Error, Progress, Remedy, Result, Stage};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

use crate::errors::{advice, raise};

/// How often the caller's thread looks at signals and progress.
const TICK: Duration = Duration::from_millis(50);
/// As large as the stack of a program's first thread, which runs the command line.
const STACK: usize = 8 << 20;

/// What work tells of itself, until somebody takes it. Clones share it.
#[derive(Clone, Default)]
pub struct Reporter(Arc<Inner>);

#[derive(Default)]
struct Inner {
    told: Mutex<Told>,
    cancelled: AtomicBool,
    /// Held by the call that works: one at a time.
    turn: Mutex<()>,
}

struct Told {
    /// Of `at`, also once that was taken.
    stage: Option<Stage>,
    at: Option<(Stage, u64, u64)>,
    detail: String,
    said: Vec<Sentence>,
    stages: Stages,
}

impl Default for Told {
    fn default() -> Told {
        let (detail, said, stages) = (String::new(), Vec::new(), Stages::timed());
        Told { stage: None, at: None, detail, said, stages }
    }
}

enum Sentence {
    Remark(String),
    Warning(String, Option<Remedy>),
}

impl Reporter {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands on what was told since the last time: to `listener`'s methods at, remark and warn.
    fn show(&self, listener: &Bound<PyAny>) -> PyResult<()> {
        let (at, detail, said) = {
            let mut told = self.told();
            (told.at.take(), told.detail.clone(), std::mem::take(&mut told.said))
        };
        for sentence in said {
            match sentence {
                Sentence::Remark(words) => listener.call_method1("remark", (words,))?,
                Sentence::Warning(words, remedy) => {
                    let (settings, operation) = remedy.as_ref().map(advice).unwrap_or_default();
                    listener.call_method1("warn", (words, settings, operation))?
                }
            };
        }
        if let Some((stage, done, total)) = at {
            listener.call_method1("at", (stage.name(), done, total, detail))?;
        }
        Ok(())
    }

    /// Waits for calls before this one, as long as no signal comes.
    fn turn(&self, py: Python) -> PyResult<MutexGuard<'_, ()>> {
        loop {
            match self.0.turn.try_lock() {
                Ok(turn) => return Ok(turn),
                Err(TryLockError::Poisoned(turn)) => return Ok(turn.into_inner()),
                Err(TryLockError::WouldBlock) => py.detach(|| thread::sleep(TICK)),
            }
            py.check_signals()?;
        }
    }
}

impl Progress for Reporter {
    fn at(&self, stage: Stage, done: u64, total: u64) {
        let mut told = self.told();
        if told.stage.is_some_and(|outer| stage.is_inside(outer)) {
            return;
        }
        if told.stage != Some(stage) {
            told.detail.clear();
            told.stages.enter(stage);
        }
        told.stage = Some(stage);
        told.at = Some((stage, done, total));
    }

    fn detail(&self, words: &str) {
        words.clone_into(&mut self.told().detail);
    }

    fn remark(&self, sentence: &str) {
        self.told().said.push(Sentence::Remark(sentence.to_owned()));
    }

    fn warn(&self, sentence: &str) {
        self.told().said.push(Sentence::Warning(sentence.to_owned(), None));
    }

    fn advise(&self, sentence: &str, remedy: &Remedy) {
        let words = format!("{sentence}; {remedy}");
        self.told().said.push(Sentence::Warning(words, Some(remedy.clone())));
    }

    fn stages(&self) -> Vec<StageTime> {
        self.told().stages.all()
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }
}

/// What became of work that ran on its own thread.
type Outcome<T> = std::result::Result<Result<T>, Box<dyn Any + Send>>;

/// Runs work that tells `reporter` how it goes.
///
/// # Errors
///
/// The work's, as `incise.Error`; what a signal's handler or `listener` raised.
pub fn run<T: Send>(
    py: Python,
    reporter: &Reporter,
    listener: &Bound<PyAny>,
    work: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    check_process().map_err(|e| raise(py, &e))?;
    let _turn = reporter.turn(py)?;
    reporter.0.cancelled.store(false, Ordering::SeqCst);
    *reporter.told() = Told::default();
    let (slot, ready) = (Mutex::new(None), Condvar::new());
    let (outcome, raised) = thread::scope(|scope| {
        let computing = || {
            let outcome: Outcome<T> = catch_unwind(AssertUnwindSafe(work));
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            ready.notify_one();
        };
        let thread = thread::Builder::new().name("incise".to_owned()).stack_size(STACK);
        if let Err(e) = thread.spawn_scoped(scope, computing) {
            return (Ok(Err(Error::io("incise", "start a thread", e))), None);
        }
        let mut raised = None;
        loop {
            let wait = || {
                let slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = ready.wait_timeout_while(slot, TICK, |outcome| outcome.is_none());
                waited.unwrap_or_else(PoisonError::into_inner).0.take()
            };
            let outcome = py.detach(wait);
            if raised.is_none()
                && let Err(e) = py.check_signals().and_then(|()| reporter.show(listener))
            {
                reporter.0.cancelled.store(true, Ordering::SeqCst);
                raised = Some(e);
            }
            if let Some(outcome) = outcome {
                return (outcome, raised);
            }
        }
    });
    let closed = listener.call_method0("close");
    match (outcome.unwrap_or_else(|panic| Err(unwound(panic))), raised) {
        (Ok(value), None) => closed.map(|_| value),
        (Err(e), None) => Err(raise(py, &e)),
        (Ok(_), Some(raised)) => {
            Err(interrupted(py, raised, "interrupted when the work was done".to_owned()))
        }
        (Err(e @ Error::Interrupted { .. }), Some(raised)) => {
            Err(interrupted(py, raised, e.line()))
        }
        (Err(e), Some(raised)) => {
            raised.set_cause(py, Some(raise(py, &e)));
            Err(raised)
        }
    }
}

/// Refuses a process that was forked from one that worked: its threads are not here, and it would
/// wait for them for ever.
fn check_process() -> Result<()> {
    static FIRST: OnceLock<u32> = OnceLock::new();
    let own = std::process::id();
    match *FIRST.get_or_init(|| own) == own {
        true => Ok(()),
        false => {
            let what = "the engine worked before this process was forked, and its threads are not \
                        here";
            Err(Error::refused(what, "start processes by \"spawn\" or \"forkserver\""))
        }
    }
}

/// What unwound, as an error: the engine's own, or a panic, which is a mistake of ours.
fn unwound(panic: Box<dyn Any + Send>) -> Error {
    let said = |panic: Box<dyn Any + Send>| {
        let words = panic.downcast_ref::<String>().cloned();
        words.or_else(|| panic.downcast_ref::<&str>().map(|&words| words.to_owned()))
    };
    panic.downcast::<Error>().map_or_else(
        |panic| {
            let words = said(panic).unwrap_or_else(|| "it says nothing".to_owned());
            Error::refused(format!("the engine panicked: {words}"), "report it")
        },
        |e| *e,
    )
}

/// Ctrl-C, with what the engine says of it; what else was raised stays as it is.
fn interrupted(py: Python, raised: PyErr, words: String) -> PyErr {
    match raised.get_type(py).is(py.get_type::<PyKeyboardInterrupt>()) {
        true => PyKeyboardInterrupt::new_err(words),
        false => raised,
    }
}
