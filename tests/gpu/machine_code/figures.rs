//! What a kernel takes of a multiprocessor, and what its hot loop does.
//!
//! Of all loops, and the kernel as a whole, the hot one is that whose own instructions weigh the
//! most: HMMA before DMMA before the rest, which is FMA and accesses of global memory, each ten
//! times as much a loop further in. Its instructions are those of the way through it that does the
//! most and of those is the shortest: what runs where data lies as the fastest path wants it.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::graph::{Graph, Worth};
use super::instruction::{Code, Instruction, Memory};

/// What is read from a kernel's code.
pub struct Figures {
    pub registers: usize,
    pub stack: usize,
    /// Accesses of a thread's own memory, in all and in loops.
    pub local: [usize; 2],
    pub shared: usize,
    pub threads: usize,
    pub occupancy: Occupancy,
    /// Loads and stores of global memory: how many bytes each moves.
    pub loads: Vec<usize>,
    pub stores: Vec<usize>,
    /// Emulated divisions in all loops: of integers in place, and by a call.
    pub divisions: [usize; 2],
    pub hot: Hot,
}

/// A hot loop, or a kernel without one.
pub struct Hot {
    pub is_loop: bool,
    /// On all ways through it.
    pub body: usize,
    pub instructions: usize,
    pub hmma: usize,
    pub dmma: usize,
    pub fma: usize,
    /// Bytes of global memory a thread reads and writes.
    pub read: usize,
    pub written: usize,
    pub divisions: usize,
}

/// Blocks a multiprocessor has room for, and what there is no room for beyond.
#[derive(Debug, PartialEq)]
pub struct Occupancy {
    pub blocks: usize,
    pub warps: usize,
    pub limit: &'static str,
}

impl Occupancy {
    /// Of compute capability 9.0 (CUDA C++ Programming Guide, compute capabilities): 64 warps, 32
    /// blocks, 228 KB of shared memory, taken 128 bytes at a time, and four parts of 16,384
    /// registers, of which a warp takes 256 at a time.
    fn of(registers: usize, shared: usize, threads: usize) -> Occupancy {
        let warps = threads.div_ceil(32);
        let part = 16384 / (32 * registers).next_multiple_of(256);
        let limits = [
            (64 / warps, "threads"),
            (4 * part / warps, "registers"),
            ((228 << 10) / shared.next_multiple_of(128).max(1), "shared memory"),
            (32, "blocks"),
        ];
        let (blocks, limit) = limits.into_iter().min_by_key(|(blocks, _)| *blocks).unwrap();
        Occupancy { blocks, warps: blocks * warps, limit }
    }
}

fn count(code: &[&Instruction], is: impl Fn(&Instruction) -> bool) -> usize {
    code.iter().filter(|i| is(i)).count()
}

/// Bytes that instructions move to or from some memory, one by one.
fn moved(code: &[&Instruction], memory: Memory) -> Vec<usize> {
    code.iter().filter_map(|i| i.memory()).filter(|(m, _)| *m == memory).map(|(_, n)| n).collect()
}

fn named(names: &[&str]) -> impl Fn(&Instruction) -> bool {
    move |i| names.contains(&i.name())
}

const FMA: &[&str] = &["FFMA", "DFMA"];

impl Figures {
    pub fn of(code: &Code, threads: usize) -> Figures {
        let graph = Graph::of(&code.instructions);
        let loops = graph.loops();
        let all: Vec<&Instruction> = code.instructions.iter().collect();
        let inside: BTreeSet<usize> = loops.iter().flat_map(|l| l.blocks.clone()).collect();
        let inside: Vec<&Instruction> =
            inside.iter().flat_map(|&b| graph.instructions(b)).collect();
        Figures {
            registers: code.registers,
            stack: code.stack,
            local: [&all, &inside].map(|code| moved(code, Memory::Local).len()),
            shared: code.shared,
            threads,
            occupancy: Occupancy::of(code.registers, code.shared, threads),
            loads: moved(&all, Memory::Load),
            stores: moved(&all, Memory::Store),
            divisions: [
                count(&inside, Instruction::is_integer_division),
                count(&inside, Instruction::is_call),
            ],
            hot: Hot::of(&graph),
        }
    }
}

impl Hot {
    fn of(graph: &Graph) -> Hot {
        let loops = graph.loops();
        // The loops, and what is in none, each without what loops further in have.
        let whole = graph.whole();
        let depth = |block: usize| loops.iter().filter(|l| l.blocks.contains(&block)).count();
        let regions = loops.iter().map(|l| (l.head, &l.blocks, depth(l.head)));
        let regions: Vec<_> = regions.chain([(0, &whole, 0)]).collect();
        let weight = |(_, blocks, level): &(usize, &BTreeSet<usize>, usize)| {
            let own = blocks.iter().filter(|&&b| depth(b) == *level);
            let own: Vec<&Instruction> = own.flat_map(|&b| graph.instructions(b)).collect();
            let access =
                |i: &Instruction| matches!(i.memory(), Some((Memory::Load | Memory::Store, _)));
            let rest = |i: &Instruction| named(FMA)(i) || access(i);
            let counts = [count(&own, named(&["HMMA"])), count(&own, named(&["DMMA"]))];
            [counts[0], counts[1], count(&own, rest)].map(|n| n * 10_usize.pow(*level as u32))
        };
        // Of equals the first in the code.
        let hot = regions.iter().max_by_key(|region| (weight(region), Reverse(region.0)));
        let &(head, blocks, level) = hot.expect("the kernel itself");
        let path = graph.best(head, blocks, worth);
        let of = |names| count(&path, named(names));
        Hot {
            is_loop: level > 0,
            body: blocks.iter().map(|&b| graph.instructions(b).len()).sum(),
            instructions: path.len(),
            hmma: of(&["HMMA"]),
            dmma: of(&["DMMA"]),
            fma: of(FMA),
            read: moved(&path, Memory::Load).iter().sum(),
            written: moved(&path, Memory::Store).iter().sum(),
            divisions: count(&path, Instruction::is_division),
        }
    }

    /// Instructions of an HMMA or DMMA, of an FMA where there is neither, and of a byte.
    pub fn each(&self) -> [Option<f64>; 3] {
        let mma = if self.hmma > 0 { self.hmma } else { self.dmma };
        let fma = if mma > 0 { 0 } else { self.fma };
        let of = |n: usize| (n > 0).then(|| self.instructions as f64 / n as f64);
        [mma, fma, self.read + self.written].map(of)
    }
}

/// Most of the work, most bytes, and of those the fewest instructions.
fn worth(i: &Instruction) -> Worth {
    let is = |names: &[&str]| i64::from(names.contains(&i.name()));
    let bytes = match i.memory() {
        Some((Memory::Load | Memory::Store, bytes)) => bytes as i64,
        _ => 0,
    };
    [is(&["HMMA"]), is(&["DMMA"]), is(FMA), bytes, -1]
}

#[test]
fn occupancy_is_what_there_is_room_for() {
    let of = |registers, shared, threads, limit| {
        let found = Occupancy::of(registers, shared, threads);
        assert_eq!(found.limit, limit, "{found:?}");
        [found.blocks, found.warps]
    };
    assert_eq!(of(16, 0, 256, "threads"), [8, 64]);
    assert_eq!(of(206, 50176, 256, "registers"), [1, 8]);
    assert_eq!(of(40, 1056, 256, "registers"), [6, 48]);
    assert_eq!(of(20, 49152, 64, "shared memory"), [4, 8]);
    assert_eq!(of(28, 2560, 32, "blocks"), [32, 32]);
}
