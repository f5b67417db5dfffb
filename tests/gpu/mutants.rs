//! Faults planted in the kernels, one at a time, and what finds each: known answers
//! (`incise::ops::proof`), asked of the sources and of what is compiled for a card, and the
//! sanitizers where they alone see it. `docs/mutants.md` is the table.

use std::fmt::Write as _;
use std::fs;
use std::sync::Mutex;
use std::thread;

use incise::gpu::Engine;
use incise::gpu::twin::{Order, Twin, symbol};
use incise::ops::proof::{Fault, KnownAnswer, known_answers};

use crate::support::programs::{self, PTX, Program, Texts};
use crate::support::{root, twin};

/// A fault.
struct Mutant {
    /// What is wrong.
    what: &'static str,
    /// Where, of `kernels/`.
    file: &'static str,
    /// What stands there, once, and what stands there instead.
    texts: [&'static str; 2],
    /// The one unit that is compiled again: a file, `elem`, `weight`.
    unit: [&'static str; 3],
    /// Builds in which its known answers are found to be wrong: of [`ASKED`], all that are; the
    /// sanitizers are asked where they stand here.
    found: &'static [&'static str],
}

/// Builds that are asked of every fault.
const ASKED: [&str; 2] = ["plain", PTX];
const BOTH: &[&str] = &ASKED;
/// The sources do not show it: the host compiles other code there, or does not interrupt it there.
const COMPILED: &[&str] = &[PTX];

const MUTANTS: &[Mutant] = &[
    Mutant {
        what: "operands of a `cvt` of two numbers swapped",
        file: "ptx.cuh",
        texts: [r#""f"(second), "f"(first)"#, r#""f"(first), "f"(second)"#],
        unit: ["linear_split", "bf16", ""],
        found: COMPILED,
    },
    Mutant {
        what: "a `cvt` that cuts instead of rounding",
        file: "ptx.cuh",
        texts: ["cvt.rn.bf16.f32", "cvt.rz.bf16.f32"],
        unit: ["rows", "bf16", ""],
        found: COMPILED,
    },
    Mutant {
        what: "registers of a product's left matrix swapped",
        file: "ptx.cuh",
        texts: [
            "f32.bf16.bf16.f32 \"\n        \"{%0, %1, %2, %3}, {%4, %5, %6, %7}",
            "f32.bf16.bf16.f32 \"\n        \"{%0, %1, %2, %3}, {%4, %6, %5, %7}",
        ],
        unit: ["linear_mma", "bf16", "bf16"],
        found: COMPILED,
    },
    Mutant {
        what: "operands of a product in f64 swapped",
        file: "ptx.cuh",
        texts: [r#""d"(a), "d"(b)"#, r#""d"(b), "d"(a)"#],
        unit: ["cholesky", "f32", ""],
        found: COMPILED,
    },
    Mutant {
        what: "`ldmatrix` without `.trans`",
        file: "ptx.cuh",
        texts: ["x4.trans.shared", "x4.shared"],
        unit: ["gram_mma", "bf16", ""],
        found: COMPILED,
    },
    Mutant {
        what: "a copy of 16 bytes, however many it is told",
        file: "ptx.cuh",
        texts: [r#""l"(from), "r"(bytes)"#, r#""l"(from), "r"(16)"#],
        unit: ["linear_mma", "bf16", "bf16"],
        found: COMPILED,
    },
    Mutant {
        what: "bounds of a launch below its threads",
        file: "linear_mma.cu",
        texts: ["__launch_bounds__(256)", "__launch_bounds__(128)"],
        unit: ["linear_mma", "bf16", "bf16"],
        found: COMPILED,
    },
    Mutant {
        what: "columns of a fragment swapped",
        file: "linear_mma.cu",
        texts: ["lane % 4 * 2 + e % 2", "lane % 4 * 2 + 1 - e % 2"],
        unit: ["linear_mma", "f32", "bf16"],
        found: BOTH,
    },
    Mutant {
        what: "the product with the low half dropped",
        file: "tiles.cuh",
        texts: ["int q = p == 0 ? B - 1 : 0", "int q = 0"],
        unit: ["linear_mma", "bf16", "f32"],
        found: BOTH,
    },
    Mutant {
        what: "one tile too few",
        file: "linear_mma.cu",
        texts: ["(K + Plan::depth - 1) / Plan::depth", "K / Plan::depth"],
        unit: ["linear_mma", "bf16", "f16"],
        found: BOTH,
    },
    Mutant {
        what: "a sum counted twice: not zero after its promotion",
        file: "tiles.cuh",
        texts: ["            sum.x[i][j][e] = 0;\n", ""],
        unit: ["linear_mma", "bf16", "bf16"],
        found: BOTH,
    },
    Mutant {
        what: "copies that leave out no byte beyond the matrix",
        file: "tiles.cuh",
        texts: ["r * m.row + c : m.at, n * 2)", "r * m.row + c : m.at, 16)"],
        unit: ["linear_mma", "bf16", "bf16"],
        found: BOTH,
    },
    Mutant {
        what: "a wait for one group of copies too few",
        file: "tiles.cuh",
        texts: ["cp_async_wait<STAGES - 2>", "cp_async_wait<STAGES - 1>"],
        unit: ["gram_mma", "bf16", ""],
        found: BOTH,
    },
    Mutant {
        what: "a tile used before all have stored it: no barrier",
        file: "tiles.cuh",
        texts: ["        __syncthreads();  // this tile", "        // this tile"],
        unit: ["linear_mma", "f32", "f32"],
        found: BOTH,
    },
    Mutant {
        what: "a place for sums used again before all have read it: no barrier",
        file: "common.cuh",
        texts: ["    __syncthreads();\n    return x;", "    return x;"],
        unit: ["norm", "f32", ""],
        found: &["thread", PTX],
    },
    Mutant {
        what: "eps left out",
        file: "norm.cu",
        texts: ["row_sum(square) / f.D + f.eps", "row_sum(square) / f.D"],
        unit: ["norm", "bf16", ""],
        found: BOTH,
    },
    Mutant {
        what: "an argument in the place of another",
        file: "norm.cu",
        texts: [
            "{g, nullptr, 0, centred, 0, N, D};\n    const bool",
            "{g, nullptr, 0, centred, 0, D, N};\n    const bool",
        ],
        unit: ["norm", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "scores without their scale",
        file: "attention.cuh",
        texts: ["s = scale * product", "s = product"],
        unit: ["attention_row", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "scores without their cap",
        file: "attention.cuh",
        texts: ["cap > 0 ? cap * tanhf(s * inverse) : s", "s"],
        unit: ["attention_short", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "a row's stride without what is left out of it",
        file: "rows.cu",
        texts: ["rows[i / D]) * wide", "rows[i / D]) * D"],
        unit: ["rows", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "sums that are not scaled down where a larger score comes",
        file: "attention_mma.cu",
        texts: ["sum[c][i] *= keep", "sum[c][i] *= 1"],
        unit: ["attention_mma", "bf16", ""],
        found: BOTH,
    },
    Mutant {
        what: "a query that does not see its own token",
        file: "attention.cu",
        texts: ["j <= past_of(seq) + a", "j < past_of(seq) + a"],
        unit: ["attention", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "a slope of scores from which no mean is taken",
        file: "attention_short.cu",
        texts: ["e = p * (s.t[j][i] - mean)", "e = p * s.t[j][i]"],
        unit: ["attention_short", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "half of the lanes of a column left out",
        file: "linear_row.cu",
        texts: ["d >= COL_LANES", "d > COL_LANES"],
        unit: ["linear_row", "f32", "bf16"],
        found: BOTH,
    },
    Mutant {
        what: "a slope with the constant of its function",
        file: "act.cu",
        texts: ["0.134145f", "0.044715f"],
        unit: ["act", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "a turn back that turns on",
        file: "rope.cu",
        texts: ["back ? -turn : turn", "turn"],
        unit: ["rope", "bf16", ""],
        found: BOTH,
    },
    Mutant {
        what: "positions in the place of tokens",
        file: "embed.cu",
        texts: ["f32(x[i]) + looked_up", "looked_up"],
        unit: ["embed", "f32", "f16"],
        found: BOTH,
    },
    Mutant {
        what: "a sum rounded twice",
        file: "update.cu",
        texts: ["*p = round_bf16(round_to_odd(x))", "*p = round_bf16(static_cast<float>(x))"],
        unit: ["update", "bf16", ""],
        found: BOTH,
    },
    Mutant {
        what: "infinity counted as what was lost",
        file: "update.cu",
        texts: ["beyond ? 0 : lost * lost", "lost * lost"],
        unit: ["update", "f16", ""],
        found: BOTH,
    },
    Mutant {
        what: "the last of the likeliest left out",
        file: "sample.cu",
        texts: ["id <= last.id", "id < last.id"],
        unit: ["sample", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "of two keys as near, the later",
        file: "codebook.cu",
        texts: ["j < key", "j > key"],
        unit: ["codebook", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "a key at its radius not chosen",
        file: "codebook.cu",
        texts: ["least <= radii[key]", "least < radii[key]"],
        unit: ["codebook", "bf16", ""],
        found: BOTH,
    },
    Mutant {
        what: "a second moment without its correction",
        file: "adam.cuh",
        texts: ["sqrtf(v / c2)", "sqrtf(v)"],
        unit: ["adam", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "the ends of a bound swapped",
        file: "adam.cu",
        texts: ["low ? low : now > high ? high", "low ? high : now > high ? low"],
        unit: ["adam", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "a bound around where x is, not where it began",
        file: "adam.cu",
        texts: ["low = centre[i] - radius, high = centre[i]", "low = x[i] - radius, high = x[i]"],
        unit: ["adam", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "rows of the next piece in a short one",
        file: "weight_gradient.cu",
        texts: ["cuts[piece + 1]}", "cuts[P]}"],
        unit: ["weight_gradient", "bf16", ""],
        found: BOTH,
    },
    Mutant {
        what: "columns left out where a warp has less than 32",
        file: "weight_gradient.cu",
        texts: ["k0 + at.col < K", "k0 + at.col + WARP_N <= K"],
        unit: ["weight_gradient", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "a run that ends a tile early: its last tile is of the next",
        file: "rank_k.cuh",
        texts: ["(tile + 1) % Plan::run == 0", "(tile + 2) % Plan::run == 0"],
        unit: ["weight_gradient", "bf16", ""],
        found: BOTH,
    },
    Mutant {
        what: "a clamp of what is short enough",
        file: "search_step.cu",
        texts: ["if (moved > radius)", "if (moved < radius)"],
        unit: ["search_step", "f32", ""],
        found: BOTH,
    },
    Mutant {
        what: "a butterfly that leaves out half of a warp",
        file: "common.cuh",
        texts: ["int d = WARP / 2; d > 0; d /= 2) x +=", "int d = WARP / 4; d > 0; d /= 2) x +="],
        unit: ["loss", "f32", ""],
        found: BOTH,
    },
];

impl Mutant {
    /// The kernels with this fault. One whose place is gone is an error by name.
    fn texts(&self) -> Texts {
        let mut texts = twin::texts();
        let all = texts.files.iter_mut().chain(&mut texts.headers);
        let (_, text) = all.into_iter().find(|(name, _)| name == self.file).unwrap();
        let [right, wrong] = self.texts;
        assert_eq!(text.matches(right).count(), 1, "`{}`: {right} in {}", self.what, self.file);
        *text = text.replace(right, wrong);
        texts
    }

    fn unit(&self) -> String {
        let [file, elem, weight] = self.unit;
        symbol(file, elem, weight, "").trim_end_matches('.').to_owned()
    }

    fn known(&self) -> KnownAnswer {
        let [file, elem, weight] = self.unit;
        let of_unit = |k: &KnownAnswer| k.file == file && k.types == (elem, weight);
        known_answers().find(of_unit).unwrap()
    }

    /// What a build says of it.
    fn asked(&self, program: &Program) -> Option<Fault> {
        let name = format!("mutants/{}", self.what.replace(|c: char| !c.is_alphanumeric(), "-"));
        let program = programs::of_unit(program, &name, &self.unit(), &self.texts());
        self.known().ask(&engine(&program))
    }
}

fn engine(program: &Program) -> Engine {
    match program.build {
        PTX => twin::compiled(&program.path, "24", Order::Interrupted),
        _ => Engine::twin(Twin::start(&program.path, Order::Shuffled).unwrap()),
    }
}

#[test]
fn each_is_found() {
    let programs = twin::programs("gpu::mutants::each_is_found");
    let mut pairs = Vec::new();
    for mutant in MUTANTS {
        let asked = |p: &&Program| ASKED.contains(&p.build) || mutant.found.contains(&p.build);
        pairs.extend(programs.iter().filter(asked).map(|program| (mutant, program)));
    }
    let (todo, wrong) = (Mutex::new(pairs.into_iter()), Mutex::new(Vec::new()));
    let work = || {
        while let Some((mutant, program)) = { todo.lock().unwrap().next() } {
            // A sanitizer is believed where it says nothing of what is right.
            let trusted =
                ASKED.contains(&program.build) || mutant.known().ask(&engine(program)).is_none();
            let said = mutant.asked(program);
            if !trusted || said.is_some() != mutant.found.contains(&program.build) {
                let what = format!("`{}` by {}: {said:?}", mutant.what, program.build);
                wrong.lock().unwrap().push(what);
            }
        }
    };
    thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const HEAD: &str = "\
# Planted faults

Kernels are tested as sources, by the host's compiler, and as what NVRTC compiles for a Hopper card,
executed on the host (`kernels/README.md`). Each of these faults, planted by itself, makes a known
answer wrong, with which a card proves itself, too, where a ● stands; a – says that nothing was
noticed. Sanitizers are asked where nothing else notices. Made from `tests/gpu/mutants.rs`, which
holds it to be true; `INCISE_WRITE_DOCS=1 cargo test --release mutants::` writes this page again.

| fault | in | known answers of | sources | sanitizers | compiled |
| --- | --- | --- | --- | --- | --- |
";

#[test]
fn the_page_of_mutants_is_what_is_planted() {
    let mut want = HEAD.to_owned();
    for mutant in MUTANTS {
        let sign = |build| if mutant.found.contains(&build) { "●" } else { "–" };
        let sanitizers: Vec<&str> =
            mutant.found.iter().copied().filter(|build| !ASKED.contains(build)).collect();
        writeln!(
            want,
            "| {} | {} | {} | {} | {} | {} |",
            mutant.what,
            mutant.file,
            mutant.unit(),
            sign("plain"),
            sanitizers.join(" "),
            sign(PTX)
        )
        .unwrap();
    }
    let page = root().join("docs/mutants.md");
    if std::env::var_os("INCISE_WRITE_DOCS").is_some() {
        fs::write(&page, &want).unwrap();
    }
    let found = fs::read_to_string(&page).unwrap_or_default();
    assert!(found == want, "docs/mutants.md is old: the page says how to write it again");
}
