//! One trial of a kernel: its arrays in a fenced block, its launches again and again, and what they
//! leave held to what they should.
//!
//! ```text
//! block    … fence │ x │ fence │ y │ fence …      FENCE bytes each, all bits set; so are outputs
//! run      once            nothing has changed but what may
//!          twice more      with uploads beside: the same bits
//!          as a recording  the same bits
//! ```
//!
//! All bits set is no number in any type: what is read from a fence, or left unwritten, shows in
//! the results.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use super::numbers::{decode, encode, rounded};
use crate::base::or_unwind;
use crate::gpu::launch::Elem;
use crate::gpu::{Array, Engine};

/// Bytes between two arrays: more than a tile of rows reaches.
const FENCE: usize = 64 << 10;
/// Bytes of a block.
const BLOCK: usize = 4 << 20;
/// On which arrays begin.
const ALIGN: usize = 512;
/// Bytes of an upload beside: as much as goes over the stream of uploads, and more.
const BESIDE: usize = 256 << 10;

/// What a kernel did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which kernel.
    pub kernel: &'static str,
    /// In which trial: `D 104`.
    pub trial: String,
    /// `y[3, 17] = 1.5, should be 2.5`.
    pub what: String,
}

/// What a trial may find.
pub type Verdict = Result<(), Wrong>;

/// An array of a trial.
struct Laid {
    name: &'static str,
    bytes: Range<usize>,
    written: bool,
}

/// Some launches, and the arrays they work on.
pub struct Trial {
    engine: Engine,
    about: String,
    block: Arc<Array>,
    before: Vec<u8>,
    after: Vec<u8>,
    laid: Vec<Laid>,
    off: usize, // elements that arrays begin behind a boundary of ALIGN
}

impl Trial {
    /// Without arrays yet. A device without room unwinds.
    pub fn new(engine: &Engine, about: impl Into<String>) -> Trial {
        Trial {
            engine: engine.clone(),
            about: about.into(),
            block: Arc::new(or_unwind(engine.array(Elem::U8, BLOCK))),
            before: vec![0xff; FENCE],
            after: Vec::new(),
            laid: Vec::new(),
            off: 0,
        }
    }

    /// Where it runs.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Arrays from here on begin one element behind where vectors may.
    pub fn off_alignment(&mut self) {
        self.off = 1;
    }

    /// An array that launches read.
    pub fn input(&mut self, name: &'static str, elem: Elem, values: &[f64]) -> Array {
        self.lay(name, elem, encode(elem, values), false)
    }

    /// The same of bytes.
    pub fn input_bytes(&mut self, name: &'static str, elem: Elem, bytes: &[u8]) -> Array {
        self.lay(name, elem, bytes.to_vec(), false)
    }

    /// An array that launches write, all of it.
    pub fn output(&mut self, name: &'static str, elem: Elem, len: usize) -> Array {
        self.lay(name, elem, vec![0xff; len * elem.size()], true)
    }

    /// An array that launches read and write.
    pub fn inout(&mut self, name: &'static str, elem: Elem, values: &[f64]) -> Array {
        self.lay(name, elem, encode(elem, values), true)
    }

    fn lay(&mut self, name: &'static str, elem: Elem, bytes: Vec<u8>, written: bool) -> Array {
        let from = self.before.len().next_multiple_of(ALIGN) + self.off * elem.size();
        self.before.resize(from, 0xff);
        self.before.extend_from_slice(&bytes);
        self.laid.push(Laid { name, bytes: from..self.before.len(), written });
        self.before.resize(self.before.len() + FENCE, 0xff);
        self.block.part(from, elem, bytes.len() / elem.size())
    }

    /// Runs the launches, which neither upload nor download, as the head of the file says.
    ///
    /// # Errors
    ///
    /// They write where they may not, give other bits when run again, or cannot be recorded.
    pub fn run(&mut self, kernel: &'static str, mut launch: impl FnMut()) -> Verdict {
        let engine = self.engine.clone();
        let _hold = engine.hold(); // no replay of another thread's is counted
        self.after = self.enqueue(&mut launch);
        self.only_outputs_changed(kernel)?;
        for time in 2..4 {
            let beside = self.upload_beside();
            let again = self.enqueue(&mut || {
                launch();
                drop(self.upload_beside());
            });
            drop(beside);
            self.same(kernel, &again, &format!("run {time} with uploads beside"))?;
        }
        let Some(graph) = self.engine.record(&mut launch) else {
            return Err(self.wrong(kernel, "its launches cannot be recorded"));
        };
        let replays = self.engine.replays();
        let again = self.enqueue(&mut || graph.replay());
        if self.engine.replays() != replays + 1 {
            return Err(self.wrong(kernel, "its recording was not replayed"));
        }
        self.same(kernel, &again, "the replay of its recording")
    }

    /// Runs launches that no step records: once, and twice more.
    ///
    /// # Errors
    ///
    /// As [`run`](Trial::run).
    pub fn run_unrecorded(&mut self, kernel: &'static str, mut launch: impl FnMut()) -> Verdict {
        self.after = self.enqueue(&mut launch);
        self.only_outputs_changed(kernel)?;
        (2..4).try_for_each(|time| {
            let again = self.enqueue(&mut launch);
            self.same(kernel, &again, &format!("run {time}"))
        })
    }

    /// What the block holds after a launch on what it held before.
    fn enqueue(&self, launch: &mut dyn FnMut()) -> Vec<u8> {
        let len = self.before.len();
        assert!(len <= BLOCK, "a trial of {len} bytes");
        let clean = or_unwind(self.engine.upload(Elem::U8, &self.before));
        self.block.part(0, Elem::U8, len).copy(0, &clean, 0..len);
        launch();
        self.block.download_part(0..len)
    }

    fn upload_beside(&self) -> Array {
        or_unwind(self.engine.upload(Elem::U8, &vec![0x5a; BESIDE]))
    }

    fn only_outputs_changed(&self, kernel: &'static str) -> Verdict {
        let mut from = 0;
        let writable = self.laid.iter().filter(|laid| laid.written).map(|laid| laid.bytes.clone());
        for range in writable.chain(iter::once(self.before.len()..self.before.len())) {
            let kept = from..range.start;
            if self.before[kept.clone()] != self.after[kept.clone()] {
                let changed = |&at: &usize| self.before[at] != self.after[at];
                let at = kept.clone().find(changed).expect("a byte that changed");
                return Err(self.wrong(kernel, format!("it writes {}", self.place(at))));
            }
            from = range.end;
        }
        Ok(())
    }

    /// Where a byte of the block is.
    fn place(&self, at: usize) -> String {
        match self.laid.iter().rev().find(|laid| laid.bytes.start <= at) {
            Some(laid) if at < laid.bytes.end => format!("to {}, which it reads", laid.name),
            Some(laid) => format!("{} bytes behind {}", at - laid.bytes.end, laid.name),
            None => {
                let first = &self.laid[0];
                format!("{} bytes before {}", first.bytes.start - at, first.name)
            }
        }
    }

    fn same(&self, kernel: &'static str, again: &[u8], what: &str) -> Verdict {
        let Some(at) = (0..again.len()).find(|&at| again[at] != self.after[at]) else {
            return Ok(());
        };
        Err(self.wrong(kernel, format!("{what} gives other bits: it writes {}", self.place(at))))
    }

    fn wrong(&self, kernel: &'static str, what: impl Into<String>) -> Wrong {
        Wrong { kernel, trial: self.about.clone(), what: what.into() }
    }

    /// What is laid where an array is.
    fn laid(&self, array: &Array) -> &Laid {
        let at = (array.slice().at - self.block.slice().at) as usize;
        self.laid.iter().find(|laid| laid.bytes.start == at).expect("an array of the trial")
    }

    /// What an array holds after the launches.
    pub fn bytes(&self, array: &Array) -> &[u8] {
        &self.after[self.laid(array).bytes.clone()]
    }

    /// What an array holds after the launches.
    pub fn numbers(&self, array: &Array) -> Vec<f64> {
        decode(array.elem(), self.bytes(array))
    }

    /// Holds the bytes of an array, of these sizes, to those that should be there.
    ///
    /// # Errors
    ///
    /// There are others.
    pub fn same_bytes(
        &self,
        kernel: &'static str,
        array: &Array,
        sizes: &[usize],
        want: &[u8],
    ) -> Verdict {
        let size = array.elem().size();
        let pairs = self.bytes(array).chunks(size).zip(want.chunks(size));
        match pairs.enumerate().find(|(_, (got, want))| got != want) {
            None => Ok(()),
            Some((at, (got, want))) => {
                let [got, want] = [got, want].map(|bytes| decode(array.elem(), bytes)[0]);
                Err(self.element(kernel, array, sizes, at, got, format!("{want}")))
            }
        }
    }

    /// Holds an array, of these sizes, to numbers, each rounded to its type.
    ///
    /// # Errors
    ///
    /// One is another.
    pub fn equal(
        &self,
        kernel: &'static str,
        array: &Array,
        sizes: &[usize],
        want: &[f64],
    ) -> Verdict {
        self.within(kernel, array, sizes, want, |_| 0.0)
    }

    /// The same within a bound for each, before it is rounded to the array's type: as rounding
    /// keeps the order of numbers, what is there lies between the ends rounded.
    ///
    /// # Errors
    ///
    /// One lies outside; the first is named.
    pub fn within(
        &self,
        kernel: &'static str,
        array: &Array,
        sizes: &[usize],
        want: &[f64],
        bound: impl Fn(usize) -> f64,
    ) -> Verdict {
        let got = self.numbers(array);
        assert_eq!(got.len(), want.len(), "as many as should be");
        assert_eq!(got.len(), sizes.iter().product::<usize>(), "as many as the sizes say");
        for (at, (&got, &want)) in got.iter().zip(want).enumerate() {
            let bound = bound(at);
            let [low, high] = [want - bound, want + bound].map(|x| rounded(array.elem(), x));
            // Not a number is never between.
            if !(low <= got && got <= high) {
                let want = match bound {
                    0.0 => format!("{}", rounded(array.elem(), want)),
                    _ => format!("{want} ± {bound:.1e}"),
                };
                return Err(self.element(kernel, array, sizes, at, got, want));
            }
        }
        Ok(())
    }

    fn element(
        &self,
        kernel: &'static str,
        array: &Array,
        sizes: &[usize],
        at: usize,
        got: f64,
        want: String,
    ) -> Wrong {
        let mut left = at;
        let mut index: Vec<String> = Vec::new();
        for size in sizes.iter().rev() {
            index.push((left % size).to_string());
            left /= size;
        }
        index.reverse();
        let name = self.laid(array).name;
        self.wrong(kernel, format!("{name}[{}] = {got}, should be {want}", index.join(", ")))
    }
}
