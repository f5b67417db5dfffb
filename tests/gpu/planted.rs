//! The host shows what a kernel breaks: planted faults, each found, most with the line named.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::LazyLock;

use incise::gpu::Engine;
use incise::gpu::launch::{Argument, Elem, File, Grid};
use incise::gpu::twin::{Order, Twin};

use crate::support::programs::{self, PTX, Program, Texts};
use crate::support::twin;

const TEXT: &str = include_str!("planted.cu");
static FILE: File = File {
    name: "planted",
    text: TEXT,
    variants: &[("f32", "")],
    kernels: &[],
    images: &[],
    headers: &[],
};

/// The executables, one a build; none without a compiler, and none of compiled kernels without
/// NVRTC.
fn programs() -> &'static [Program] {
    static MADE: LazyLock<Vec<Program>> = LazyLock::new(|| {
        let texts =
            Texts { files: vec![("planted.cu".to_owned(), TEXT.to_owned())], ..twin::texts() };
        programs::make("planted", &texts).0
    });
    &MADE
}

/// That of compiled kernels, and nothing else.
fn compiled() -> &'static [Program] {
    programs().split_at(programs().iter().take_while(|p| p.build != PTX).count()).1
}

/// What a kernel leaves in 64 numbers, or what its end says.
fn run(
    program: &Path,
    order: Order,
    kernel: &'static str,
    blocks: usize,
) -> Result<Vec<f64>, String> {
    let engine = Engine::twin(Twin::start(program, order).unwrap());
    let y = engine.array(Elem::F32, 64).unwrap();
    let launch = || {
        let to = Argument::Pointer { name: "y", to: "float", slice: y.slice() };
        engine.launch(&FILE, kernel, Grid::line(blocks, 64), &[to]);
        twin::down(&y)
    };
    catch_unwind(AssertUnwindSafe(launch)).map_err(|said| {
        let said = said.downcast_ref::<String>();
        said.cloned().unwrap_or_default()
    })
}

/// `planted.cu:` and the number of the line that is at fault.
fn fault(kernel: &str) -> String {
    let mark = format!("// fault: {kernel}");
    let line = TEXT.lines().position(|line| line.ends_with(&mark)).unwrap() + 1;
    format!("planted.cu:{line}")
}

const ORDERS: [Order; 3] = [Order::Forwards, Order::Backwards, Order::Shuffled];

#[test]
fn faults_are_found_and_their_lines_named() {
    let [plain, address, thread, ..] = programs() else { return };
    for (kernel, Program { path, .. }, blocks) in [
        ("divergent_barrier", plain, 1),
        ("two_barriers", plain, 1),
        ("barrier_meets_shuffle", plain, 1),
        ("lane_that_left", plain, 1),
        ("divergent_mma", plain, 1),
        ("misaligned_copy", plain, 1),
        ("misaligned_row", plain, 1),
        ("missing_wait", address, 1),
        ("out_of_range", address, 1),
        ("out_of_shared", address, 1),
        ("misaligned", address, 1),
        ("missing_barrier", thread, 1),
        ("copy_too_early", thread, 1),
        ("race", thread, 1),
        ("race_of_blocks", thread, 2),
    ] {
        for order in ORDERS {
            let said = run(path, order, kernel, blocks).expect_err(kernel);
            assert!(said.contains(&fault(kernel)), "{kernel}, {order:?}: {said}");
            let launch =
                format!("{kernel} (planted.cu) for f32, [{blocks}, 1, 1] blocks of [64, 1, 1]");
            assert!(said.starts_with(&launch), "{said}");
        }
    }
}

/// Compiled kernels break the same rules; what is named is the line of the PTX.
#[test]
fn faults_of_compiled_kernels_are_found() {
    let [Program { path, .. }] = compiled() else { return };
    for (kernel, what) in [
        ("divergent_barrier", "a barrier that some threads never reach"),
        ("barrier_meets_shuffle", "a barrier meets a warp operation"),
        ("lane_that_left", "a lane of the mask has left"),
        ("divergent_mma", "a lane of the mask has left"),
        ("misaligned_copy", "an address that is no multiple of its access"),
        ("misaligned_row", "an address that is no multiple of its access"),
        ("misaligned", "an address that is no multiple of its access"),
        ("out_of_range", "an access outside every array"),
        ("out_of_shared", "an access outside shared memory"),
    ] {
        for order in ORDERS {
            let said = run(path, order, kernel, 1).expect_err(kernel);
            assert!(said.contains(what) && said.contains(".ptx:"), "{kernel}, {order:?}: {said}");
        }
    }
    // What is not there yet is no number.
    let copied = run(path, Order::Forwards, "missing_wait", 1).unwrap();
    assert!(copied.iter().all(|x| x.is_nan()), "{copied:?}");
}

#[test]
fn what_is_right_passes_everywhere() {
    let want: Vec<f64> = (0..64).rev().map(f64::from).collect();
    for (program, order) in programs().iter().flat_map(|p| ORDERS.map(|o| (p, o))) {
        for (kernel, blocks) in [("right", 1), ("right_copy", 1), ("right_locals", 2)] {
            let got = run(&program.path, order, kernel, blocks).unwrap();
            assert_eq!(got, want, "{kernel}, {}", program.build);
        }
    }
}

#[test]
fn what_was_not_written_is_not_a_number() {
    for program in programs().iter().filter(|p| ["plain", PTX].contains(&p.build)) {
        let run = |kernel| run(&program.path, Order::Forwards, kernel, 1).unwrap();
        assert!(run("unwritten")[63].is_nan(), "{}", program.build);
        assert!(run("reads_poison").iter().all(|x| x.is_nan()), "{}", program.build);
    }
}

#[test]
fn launches_no_card_would_take_are_refused() {
    for threads in [[1025, 1, 1], [32, 33, 1], [1, 1, 65], [0, 1, 1]] {
        let grid = Grid { blocks: [1, 1, 1], threads };
        assert!(catch_unwind(|| grid.check("planted")).is_err(), "{grid:?}");
    }
    for blocks in [[1, 65_536, 1], [1 << 31, 1, 1]] {
        assert!(catch_unwind(|| Grid { blocks, threads: [1; 3] }.check("p")).is_err());
    }
    Grid { blocks: [1 << 30, 65_535, 1], threads: [32, 32, 1] }.check("planted");
}

/// An array of another type than the parameter's is our bug, told by name.
#[test]
fn arguments_of_other_types_are_refused() {
    let [plain, ..] = programs() else { return };
    let engine = Engine::twin(Twin::start(&plain.path, Order::Forwards).unwrap());
    let y = engine.array(Elem::BF16, 64).unwrap();
    let to = Argument::Pointer { name: "y", to: "float", slice: y.slice() };
    let launch = || engine.launch(&FILE, "right", Grid::line(1, 64), &[to]);
    let said = catch_unwind(AssertUnwindSafe(launch)).unwrap_err();
    assert!(said.downcast_ref::<String>().unwrap().contains("`y` is of another type"));
}
