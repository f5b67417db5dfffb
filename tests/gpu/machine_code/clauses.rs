//! What must hold of every kernel, whatever the page says: nothing of a thread's own memory, and
//! no emulated division in a loop. The few kernels that may are listed, each with the reason.

use super::figures::Figures;
use super::table::Name;

/// What no kernel may have.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Clause {
    /// Accesses of a thread's own memory in loops: what registers have no room for.
    LocalInLoops,
    /// Bytes of a thread's own memory.
    Stack,
    /// Integers divided by what is known at run time alone, in loops: some 20 instructions each.
    Integers,
    /// Calls in loops. Of a kernel here they are for the rare operands of a division or a root in
    /// floating point (below 2⁻¹²⁶ and the like): instructions that are there, and seldom run.
    Calls,
}

use Clause::{Calls, Integers, LocalInLoops, Stack};

const ALL: [Clause; 4] = [LocalInLoops, Stack, Integers, Calls];

impl Clause {
    fn amount(self, figures: &Figures) -> usize {
        match self {
            LocalInLoops => figures.local[1],
            Stack => figures.stack,
            Integers => figures.divisions[0],
            Calls => figures.divisions[1],
        }
    }
}

/// A kernel that may, for all its types, and why.
struct Allowed(Clause, &'static str, &'static str);

const P: &str = "p is a score's exponential divided by its row's sum, a division a score that is \
                 spread over the threads";

const ALLOWED: &[Allowed] = &[
    Allowed(
        Integers,
        "attention_bwd_kv",
        "which of the heads that share a key comes next: once for 64 queries",
    ),
    Allowed(
        Integers,
        "attention_mma_fwd",
        "where a packet of eight numbers of keys or values lies: heads have any multiple of 16 \
         numbers, and a tile's packets are copied once for 128 products on tensor cores",
    ),
    Allowed(
        Integers,
        "attention_short_bwd",
        "which of the heads that share a key a step is of, where its rows lie: once for four rows",
    ),
    Allowed(
        Integers,
        "cholesky_solve",
        "row and column of what is read and written, by a size that is known at run time: once a \
         number, beside 64 multiply-adds of it",
    ),
    Allowed(Calls, "attention_bwd_q", P),
    Allowed(Calls, "attention_bwd_kv", P),
    Allowed(Calls, "attention_short_fwd", P),
    Allowed(Calls, "attention_short_bwd", P),
    Allowed(
        Calls,
        "attention_row_merge",
        "a sum divided by the weights' total: once a number of o",
    ),
    Allowed(Calls, "cholesky_factor", "the root of a pivot and a division by it: once a column"),
    Allowed(Calls, "cholesky_solve", "a division by the pivot of f64: once an unknown"),
    Allowed(Calls, "sample", "logits divided by the temperature, one after another"),
    Allowed(Calls, "search_step", "Adam's root and division: once a number of delta"),
];

/// What is broken: by kernel, and by entries of the list that no kernel needs any more.
pub fn broken(kernels: &[(Name, Figures)]) -> Vec<String> {
    let listed = |clause, kernel: &str| ALLOWED.iter().any(|a| a.0 == clause && a.1 == kernel);
    let mut found = Vec::new();
    for ([file, kernel], figures) in kernels {
        let over = |clause: &&Clause| clause.amount(figures) > 0 && !listed(**clause, kernel);
        let said = |clause: &Clause| {
            format!("{file} {kernel}: {clause:?} is {}, must be 0", clause.amount(figures))
        };
        found.extend(ALL.iter().filter(over).map(said));
    }
    for Allowed(clause, kernel, why) in ALLOWED {
        let mut of = kernels.iter().filter(|(name, _)| name[1] == *kernel);
        if !of.any(|(_, figures)| clause.amount(figures) > 0) {
            found.push(format!("{kernel}: {clause:?} is 0, and is listed ({why}): strike it out"));
        }
    }
    found
}

#[test]
fn what_is_broken_is_named() {
    use super::instruction::parse;
    // A kernel of each kind of complaint: an address, a loop over it, and out.
    let of = |stack: usize, inside: &str| {
        let listing = format!(
            "Function act_fwd:\n  REG:16 STACK:{stack} SHARED:0\n\t\tFunction : act_fwd\n\
             /*0000*/ {inside} ;\n/*0010*/ @P0 BRA 0x0 ;\n/*0020*/ EXIT ;\n"
        );
        let code = parse(&listing).pop().unwrap();
        let name = ["act.f32", "act_fwd"].map(str::to_owned);
        let all = broken(&[(name, Figures::of(&code, 256))]);
        all.into_iter().filter(|line| line.starts_with("act.f32")).collect::<Vec<_>>()
    };
    let said = |clause: &str, n: usize| [format!("act.f32 act_fwd: {clause} is {n}, must be 0")];
    assert!(of(0, "FADD R0, R0, R0").is_empty());
    assert_eq!(of(0, "LDL R0, [R1]"), said("LocalInLoops", 1));
    assert_eq!(of(8, "FADD R0, R0, R0"), said("Stack", 8));
    assert_eq!(of(0, "I2F.U32.RP R0, R1"), said("Integers", 1));
    assert_eq!(of(0, "CALL.REL.NOINC 0x80"), said("Calls", 1));
    // No kernel needs what is listed.
    assert!(broken(&[]).iter().any(|line| line.starts_with("sample: Calls is 0, and is listed")));
    assert_eq!(broken(&[]).len(), ALLOWED.len());
}
