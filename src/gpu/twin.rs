//! The driver's twin: a process that runs kernels on the host (`kernels/host/`).
//!
//! Commands go over a pipe, in the protocol of `kernels/host/main.cpp`. Its memory is its own, so a
//! kernel that breaks something ends that process, whose last output is told: to a test by a panic,
//! to a user of the device that it stands for as a card's failure is.

use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use super::driver::again_or_cpu;
use super::launch::{Argument, File, Grid, launched, types};
use super::lock::lock;
use crate::base::{Error, or_unwind};

/// In which order blocks, and threads between two waits, take their turns. Interrupted is shuffled,
/// and a thread of compiled kernels may be held at an access to shared memory until no other can go
/// on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Order {
    Forwards,
    Backwards,
    Shuffled,
    Interrupted,
}

/// The process.
pub struct Twin {
    pipes: Mutex<Pipes>,
    order: Order,
    recording: Mutex<Option<TwinGraph>>,
}

/// The messages of a recording.
pub(super) type TwinGraph = Vec<Message>;

/// A command.
pub(super) struct Message {
    bytes: Vec<u8>,
    /// What it does, in words.
    doing: String,
    /// As launches are.
    answered: bool,
}

struct Pipes {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    doing: String,          // the last command
    device: Option<String>, // that it stands for
}

impl Twin {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn start(program: &Path, order: Order) -> std::io::Result<Twin> {
        Twin::spawn(Command::new(program), order)
    }

    /// Starts it by a command, which may set variables of its own.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn spawn(mut command: Command, order: Order) -> std::io::Result<Twin> {
        // The first finding ends the process.
        command.env("TSAN_OPTIONS", "halt_on_error=1").env("UBSAN_OPTIONS", "print_stacktrace=1");
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn()?;
        let to = child.stdin.take().expect("a pipe");
        let from = BufReader::new(child.stdout.take().expect("a pipe"));
        Ok(Twin {
            pipes: Mutex::new(Pipes { child, to, from, doing: String::new(), device: None }),
            order,
            recording: Mutex::default(),
        })
    }

    /// In the place of a device of this name.
    pub(super) fn in_place_of(self, device: String) -> Twin {
        self.pipes().device = Some(device);
        self
    }

    pub(super) fn allocate(&self, bytes: usize) -> Option<u64> {
        let doing = || format!("room for {bytes} bytes");
        let at = self.pipes().request(doing, b'A', &[bytes as u64], &[]).number();
        (at != 0).then_some(at)
    }

    pub(super) fn free(&self, at: u64) {
        // Also while a panic unwinds because the process has ended.
        let _ = self.pipes().to.write_all(&command(b'F', &[at], &[]));
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        let doing = || format!("copy of {} bytes to the card", bytes.len());
        self.pipes().request(doing, b'W', &[at, bytes.len() as u64], bytes);
    }

    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) {
        let doing = || format!("copy of {} bytes from the card", bytes.len());
        self.pipes().request(doing, b'R', &[at, bytes.len() as u64], &[]).take(bytes);
    }

    pub(super) fn fill(&self, at: u64, bytes: usize, fill: &mut dyn FnMut(usize, &mut [u8])) {
        let mut all = vec![0; bytes];
        fill(0, &mut all);
        self.write(at, &all);
    }

    pub(super) fn seconds(&self, run: impl FnOnce()) -> f64 {
        let began = Instant::now();
        run();
        began.elapsed().as_secs_f64()
    }

    pub(super) fn copy(&self, to: u64, from: u64, bytes: usize) {
        let doing = format!("copy of {bytes} bytes on the card");
        self.enqueue(command(b'C', &[to, from, bytes as u64], &[]), doing, false);
    }

    pub(super) fn zero(&self, at: u64, bytes: usize) {
        let doing = format!("zeros to {bytes} bytes on the card");
        self.enqueue(command(b'Z', &[at, bytes as u64], &[]), doing, false);
    }

    /// From here on messages are recorded.
    pub(super) fn begin(&self) {
        *lock(&self.recording) = Some(TwinGraph::new());
    }

    pub(super) fn end(&self) -> TwinGraph {
        lock(&self.recording).take().expect("a recording")
    }

    /// Every array has memory of its own.
    pub(super) fn give_up(&self) -> bool {
        false
    }

    pub(super) fn replay(&self, graph: &TwinGraph) {
        graph.iter().for_each(|message| self.send(message));
    }

    fn enqueue(&self, bytes: Vec<u8>, doing: String, answered: bool) {
        let message = Message { bytes, doing, answered };
        match &mut *lock(&self.recording) {
            Some(graph) => graph.push(message),
            None => self.send(&message),
        }
    }

    fn send(&self, message: &Message) {
        let mut pipes = self.pipes();
        pipes.doing.clone_from(&message.doing);
        pipes.send(&message.bytes);
        if message.answered {
            assert_eq!(pipes.number(), 0, "the twin's answer to a launch");
        }
    }

    /// Asserts that the process has it.
    pub(super) fn load(&self, file: &File, kernel: &str, (elem, weight): (&str, &str)) {
        let name = symbol(file.name, elem, weight, kernel);
        let doing = || format!("kernel {name}");
        let length = name.len() as u64;
        let shared = self.pipes().request(doing, b'S', &[length], name.as_bytes()).number();
        assert_ne!(shared, u64::from(u32::MAX), "no kernel {name}");
    }

    pub(super) fn launch(
        &self,
        file: &File,
        kernel: &'static str,
        grid: Grid,
        arguments: &[Argument],
    ) {
        let (elem, weight) = types(file, kernel, arguments);
        let name = symbol(file.name, elem, weight, kernel);
        let mut numbers = vec![self.order as u64];
        numbers.extend(grid.blocks.iter().chain(&grid.threads).map(|&n| u64::from(n)));
        numbers.push(arguments.len() as u64);
        numbers.extend(arguments.iter().map(|a| a.slot()));
        let mut message = command(b'L', &[name.len() as u64], name.as_bytes());
        numbers.iter().for_each(|n| message.extend(n.to_le_bytes()));
        self.enqueue(message, launched(file.name, kernel, (elem, weight), grid), true);
    }

    fn pipes(&self) -> MutexGuard<'_, Pipes> {
        lock(&self.pipes)
    }
}

/// The twin's name of a kernel for some types: `norm.bf16.norm_fwd`.
pub fn symbol(file: &str, elem: &str, weight: &str, kernel: &str) -> String {
    let types = [elem, weight].into_iter().filter(|t| !t.is_empty());
    [file].into_iter().chain(types).chain([kernel]).collect::<Vec<_>>().join(".")
}

fn command(letter: u8, numbers: &[u64], bytes: &[u8]) -> Vec<u8> {
    let mut all = vec![letter];
    numbers.iter().for_each(|n| all.extend(n.to_le_bytes()));
    all.extend(bytes);
    all
}

impl Pipes {
    fn request(
        &mut self,
        doing: impl FnOnce() -> String,
        command: u8,
        numbers: &[u64],
        bytes: &[u8],
    ) -> &mut Pipes {
        self.doing = doing();
        self.send(&self::command(command, numbers, bytes))
    }

    fn send(&mut self, bytes: &[u8]) -> &mut Pipes {
        if self.to.write_all(bytes).and_then(|()| self.to.flush()).is_err() {
            self.died();
        }
        self
    }

    fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.take(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn take(&mut self, bytes: &mut [u8]) {
        if self.from.read_exact(bytes).is_err() {
            self.died();
        }
    }

    /// Tells what it was doing, and its last output.
    fn died(&mut self) -> ! {
        let mut output = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            let _ = errors.read_to_string(&mut output);
        }
        let status = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(e) => e.to_string(),
        };
        let doing = &self.doing;
        let Some(device) = &self.device else {
            panic!("{doing} ended its process ({status}):\n{output}");
        };
        let said = if output.is_empty() { "" } else { ": " };
        let what =
            format!("{device}: its process ended ({status}), {doing}{said}{}", output.trim());
        or_unwind(Err(Error::device(what, again_or_cpu())))
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
