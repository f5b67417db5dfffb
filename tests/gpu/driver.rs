//! The program's own way to a card, on a planted driver whose card is the host (`driver.cpp`):
//! whole tests and commands as on a card, and what a driver may refuse.
//!
//! The driver is found as NVIDIA's is, so what uses it is a process of its own: this executable
//! again, with some of its tests, or the program.

mod inside;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use incise::gpu::driver::{FORCE_PTX, OLDEST, SYMBOLS, SYNC, TWIN};
use incise::gpu::kernels::FILES;
use incise::store::Patch;

use crate::support::session::{Session, strs, text};
use crate::support::{root, twin};

const TEXT: &str = include_str!("driver.cpp");

/// The folder of a driver, which is made where it is not there; `flags` change it.
fn made(name: &str, flags: &[&str]) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("driver").join(name);
    fs::create_dir_all(&dir).unwrap();
    let part = dir.join(format!("part-{}", std::process::id()));
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]);
    compiler.arg("-fvisibility=hidden").args(flags).arg(root().join("tests/gpu/driver.cpp"));
    let out = compiler.arg("-o").arg(&part).output().ok()?;
    assert!(out.status.success(), "{}", text(&out.stderr));
    fs::rename(&part, dir.join("libcuda.so")).unwrap();
    Some(dir)
}

/// Which image is which: the hash of each, its file and types.
fn images() -> String {
    let mut lines = String::new();
    for file in FILES {
        for image in file.images.iter().filter(|image| image.arch == "compute_80") {
            let text = image.bytes.split(|b| *b == 0).next().unwrap();
            let fnv = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
            let hash = text.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
            let types = [file.name, image.elem, image.weight];
            let types: Vec<&str> = types.into_iter().filter(|t| !t.is_empty()).collect();
            writeln!(lines, "{hash} {}", types.join(".")).unwrap();
        }
    }
    lines
}

/// A driver of CUDA 12.0 and a card of 1 GiB.
struct Planted {
    dir: PathBuf,
    twin: PathBuf,
}

impl Planted {
    /// `None`, and a line, where there is no compiler, or no kernels are compiled.
    fn new(test: &str) -> Option<Planted> {
        static MADE: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
            let dir = made("whole", &[])?;
            fs::write(dir.join("images"), images()).unwrap();
            Some(dir)
        });
        let twin = twin::program(test)?.to_owned();
        if images().is_empty() {
            eprintln!("skipped: {test}: the build had no NVRTC, so there are no images");
            return None;
        }
        Some(Planted { dir: MADE.clone()?, twin })
    }

    /// A program that finds the driver, and nothing else that these tests set.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        // What the card proved is kept for all tests.
        command.env("INCISE_CACHE", self.dir.join("cache"));
        command.env("LD_LIBRARY_PATH", &self.dir).env("CARD_TWIN", &self.twin);
        command.env("CARD_IMAGES", self.dir.join("images")).env("CARD_BYTES", "1073741824");
        command.env("CARD_SERVES", OLDEST.to_string()).env("EXPECT_GPU", "1").env_remove(TWIN);
        command.env("INCISE_SMALLEST", "1").env_remove("CARD_FAULT");
        command
    }

    /// Tests of this executable, as on a card; those that are ignored otherwise too.
    fn tests(&self, filters: &[&str], set: &[(&str, &str)]) -> Output {
        let mut command = self.command(std::env::current_exe().unwrap());
        command.args(filters).args(["--include-ignored", "--test-threads", "1"]);
        command.envs(set.iter().copied()).output().unwrap()
    }

    /// That a test of [`inside`] passes, where the environment says some things.
    fn holds(&self, name: &str, set: &[(&str, &str)]) {
        let name = format!("gpu::driver::inside::{name}");
        let out = self.tests(&["--exact", &name], set);
        let said = text(&out.stdout);
        assert!(out.status.success(), "{said}{}", text(&out.stderr));
        assert!(said.contains("1 passed"), "{said}");
    }
}

/// Kernels, uploads of every size, weights that come and go, recordings, a search.
#[test]
fn what_runs_on_a_card_runs_through_the_driver() {
    let test = "gpu::driver::what_runs_on_a_card_runs_through_the_driver";
    let Some(planted) = Planted::new(test) else { return };
    let filters = [
        "gpu::card::every_image_loads",
        "gpu::graph::a_replay",
        "gpu::memory::weights",
        "ops::rows::kernels",
        "ops::search_step",
        "ops::cholesky::kernels_divide",
        "edit::search_golden",
    ];
    let out = planted.tests(&filters, &[]);
    let said = text(&out.stdout);
    assert!(out.status.success(), "{said}{}", text(&out.stderr));
    assert!(!text(&out.stderr).contains("skipped: "), "{}", text(&out.stderr));
}

/// The same bytes as with the host in the card's place, without a driver.
#[test]
fn an_edit_is_the_same_through_the_driver() {
    let test = "gpu::driver::an_edit_is_the_same_through_the_driver";
    let Some(planted) = Planted::new(test) else { return };
    let s = Session::new("gpt2");
    let patch = |name: &str, mut command: Command| {
        let patch = s.at(name);
        let arguments = s.edit(&["--device", "cuda:0"]);
        let to =
            |arg: &str| if arg.ends_with("patch.safetensors") { patch.clone() } else { arg.into() };
        let arguments: Vec<String> = arguments.iter().map(|arg| to(arg)).collect();
        let out = command.args(strs(&arguments)).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        let mut patch = Patch::read(Path::new(&patch)).unwrap();
        // Which card and what it proved is not the same; that there is a proof, is.
        let device = patch.metadata.notes["device"].take();
        assert!(device["proof"].as_str().is_some_and(|hash| !hash.is_empty()), "{device}");
        patch
    };
    let stats = ["stats", &s.at("model"), "--layers", "0-1", "--corpus", &s.at("corpus.txt")];
    let to = ["--max-tokens", "700", "-o", &s.at("stats"), "--device", "cuda:0"];
    let program = env!("CARGO_BIN_EXE_incise");
    let out = planted.command(program).args(stats).args(to).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let mut twin = Command::new(program);
    twin.env(TWIN, &planted.twin);
    let by_driver = patch("by-driver.safetensors", planted.command(program));
    assert!(by_driver == patch("by-twin.safetensors", twin));
}

#[test]
fn a_library_that_does_not_start_is_done_without() {
    let test = "gpu::driver::a_library_that_does_not_start_is_done_without";
    let Some(planted) = Planted::new(test) else { return };
    let dir = blaslt(1);
    let paths = format!("{}:{}", planted.dir.display(), dir.path().display());
    planted.holds("a_library_refuses", &[("LD_LIBRARY_PATH", &paths)]);
    let forced = [("LD_LIBRARY_PATH", &*paths), (FORCE_PTX, "1")];
    planted.holds("libraries_are_left_alone", &forced);
}

/// The head of GPT-J and as many rows as there may be is more than 2³¹ numbers.
#[test]
fn the_head_has_a_plan() {
    let Some(planted) = Planted::new("gpu::driver::the_head_has_a_plan") else { return };
    let dir = blaslt(0);
    let paths = format!("{}:{}", planted.dir.display(), dir.path().display());
    planted.holds("products_of_the_head", &[("LD_LIBRARY_PATH", &paths)]);
}

/// A driver from before a function of it was there says so, by name.
#[test]
fn a_driver_that_lacks_a_function_is_refused() {
    let test = "gpu::driver::a_driver_that_lacks_a_function_is_refused";
    let Some(whole) = Planted::new(test) else { return };
    let flag = "-DcuGraphInstantiateWithFlags=cuGraphInstantiateOtherwise";
    let old = Planted { dir: made("old", &[flag]).unwrap(), twin: whole.twin.clone() };
    let s = Session::new("gpt2");
    let refused = |planted: &Planted, serves: &str| {
        let mut command = planted.command(env!("CARGO_BIN_EXE_incise"));
        command.args(["generate", &s.at("model"), "--prompt", "Big Ben", "--device", "cuda:0"]);
        let out = command.env("CARD_SERVES", serves).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        text(&out.stderr).to_owned()
    };
    let said = refused(&old, "11030");
    let lacks = "cuda:0 (a planted card): the driver serves CUDA 11.3 and has no \
                 cuGraphInstantiateWithFlags; update it";
    assert!(said.contains(lacks), "{said}");
    let said = refused(&whole, "11080");
    assert!(said.contains("the driver serves CUDA 11.8; update it"), "{said}");
}

#[test]
fn a_fault_is_blamed_on_its_kernel() {
    let Some(planted) = Planted::new("gpu::driver::a_fault_is_blamed_on_its_kernel") else {
        return;
    };
    let fault = ("CARD_FAULT", "launch gather_rows");
    planted.holds("a_kernel_faults", &[fault]);
    planted.holds("a_kernel_faults_and_is_named", &[fault, (SYNC, "1")]);
}

#[test]
fn what_the_driver_refuses_is_got_around() {
    let test = "gpu::driver::what_the_driver_refuses_is_got_around";
    let Some(planted) = Planted::new(test) else { return };
    planted.holds("no_recording_is_made", &[("CARD_FAULT", "recording")]);
    // The 1 MiB of small uploads and room for two pairs.
    planted.holds("few_pairs_are_enough", &[("CARD_FAULT", "pinned 70000000")]);
    // Cards that hold GPT-J and not much more.
    for bytes in ["24000000000", "32000000000"] {
        let hollow = [("CARD_FAULT", "hollow"), ("CARD_BYTES", bytes)];
        planted.holds("a_whole_edit_finds_room", &hollow);
    }
    planted.holds("memory_in_pieces_is_given_back", &[("CARD_BYTES", "600000000")]);
    planted.holds("a_step_that_takes_memory_is_recorded_later", &[]);
    planted.holds("a_recording_is_dropped_elsewhere", &[]);
}

/// What `src/gpu/` calls is what is looked for before the first call, and what `driver.cpp` has;
/// and the oldest driver that is served has it.
#[test]
fn functions_of_the_driver_are_as_old_as_it() {
    let calls = |line: &str| {
        let name = line.strip_prefix("API ")?.split('(').next()?;
        Some(name.to_owned())
    };
    let planted: BTreeSet<String> = TEXT.lines().filter_map(calls).collect();
    let table: BTreeSet<String> = SYMBOLS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(planted, table);
    let newest = SYMBOLS.iter().max_by_key(|(_, since)| since).unwrap();
    assert!(newest.1 <= OLDEST, "{newest:?}");
    // What a call of the driver's crate comes down to; the crate calls no other function for it.
    let called: BTreeSet<&str> = CALLS.iter().flat_map(|(_, names)| *names).copied().collect();
    assert_eq!(called.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), table);
    let mut used = BTreeSet::new();
    for file in fs::read_dir(root().join("src/gpu")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for (at, prefix) in text.match_indices("result::").chain(text.match_indices("sys::cu")) {
            let path: String = text[at..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || "_:".contains(*c))
                .collect();
            let last = path.rsplit("::").next().unwrap();
            let is_function = last.starts_with(|c: char| c.is_lowercase());
            if is_function && prefix.len() < path.len() && !text[..at].ends_with("std::") {
                used.insert(path);
            }
        }
    }
    used.insert("result::DriverError".to_owned());
    let known: BTreeSet<String> = CALLS.iter().map(|(call, _)| (*call).to_owned()).collect();
    assert_eq!(used, known);
}

/// What `src/gpu/` calls, and the functions of the driver that this comes down to.
const CALLS: [(&str, &[&str]); 41] = [
    ("result::ctx::set_current", &["cuCtxSetCurrent"]),
    ("result::device::get", &["cuDeviceGet"]),
    ("result::device::get_attribute", &["cuDeviceGetAttribute"]),
    ("result::device::get_count", &["cuDeviceGetCount"]),
    ("result::device::get_name", &["cuDeviceGetName"]),
    ("result::device::get_uuid", &["cuDeviceGetUuid"]),
    ("result::device::total_mem", &["cuDeviceTotalMem_v2"]),
    ("result::event::create", &["cuEventCreate"]),
    ("result::event::destroy", &["cuEventDestroy_v2"]),
    ("result::event::elapsed", &["cuEventElapsedTime"]),
    ("result::event::record", &["cuEventRecord"]),
    ("result::event::synchronize", &["cuEventSynchronize"]),
    ("result::free_host", &["cuMemFreeHost"]),
    ("result::free_sync", &["cuMemFree_v2"]),
    ("result::graph::destroy", &["cuGraphDestroy"]),
    ("result::graph::exec_destroy", &["cuGraphExecDestroy"]),
    ("result::graph::instantiate", &["cuGraphInstantiateWithFlags"]),
    ("result::graph::launch", &["cuGraphLaunch"]),
    ("result::init", &["cuInit"]),
    ("result::launch_kernel", &["cuLaunchKernel"]),
    ("result::malloc_host", &["cuMemHostAlloc"]),
    ("result::malloc_sync", &["cuMemAlloc_v2"]),
    ("result::mem_get_info", &["cuMemGetInfo_v2"]),
    ("result::memcpy_dtod_async", &["cuMemcpyDtoDAsync_v2"]),
    ("result::memcpy_dtoh_async", &["cuMemcpyDtoHAsync_v2"]),
    ("result::memcpy_htod_async", &["cuMemcpyHtoDAsync_v2"]),
    ("result::memset_d8_async", &["cuMemsetD8Async"]),
    ("result::module::get_function", &["cuModuleGetFunction"]),
    ("result::module::load_data", &["cuModuleLoadData"]),
    ("result::module::unload", &["cuModuleUnload"]),
    ("result::primary_ctx::release", &["cuDevicePrimaryCtxRelease_v2"]),
    ("result::primary_ctx::retain", &["cuDevicePrimaryCtxRetain"]),
    ("result::stream::begin_capture", &["cuStreamBeginCapture_v2"]),
    ("result::stream::create", &["cuStreamCreate"]),
    ("result::stream::destroy", &["cuStreamDestroy_v2"]),
    ("result::stream::end_capture", &["cuStreamEndCapture"]),
    ("result::stream::synchronize", &["cuStreamSynchronize"]),
    ("result::stream::wait_event", &["cuStreamWaitEvent"]),
    ("sys::cuDriverGetVersion", &["cuDriverGetVersion"]),
    // Looks for the library, and gives it.
    ("sys::culib", &[]),
    // What an error says.
    ("result::DriverError", &["cuGetErrorString"]),
];

/// A folder with cuBLASLt as `blaslt.cpp` has it: `create` is what it answers where it is started.
fn blaslt(create: i32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut compiler = Command::new("c++");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(dir.path().join("libcublasLt.so.12"));
    compiler.arg(format!("-DCREATE={create}")).arg(root().join("tests/gpu/blaslt.cpp"));
    assert!(compiler.status().unwrap().success());
    dir
}
