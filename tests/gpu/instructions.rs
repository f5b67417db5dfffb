//! What `kernels/host/ptx.h` does for an instruction, against what the PTX ISA says it gives: by
//! hand, case by case. Inputs are read from memory, so that no compiler works them out.
//!
//! ```text
//! %f %d %r %l %h %p   f32, f64, 32, 64 and 16 bits, a predicate
//! 1                   the result        2, 3, 4   the inputs        %r8   the number of the lane
//! ```

use std::fmt::Write as _;

use incise::gpu::Array;
use incise::gpu::launch::{Argument, Elem, File, Grid};
use incise::gpu::twin::Order;

use crate::support::{programs, twin};

/// An instruction, the bits of its inputs, and those of its result by lane. A NaN is any NaN, as
/// the ISA leaves it open which; `.approx` may be off by 2 units of the last place.
type Case = (&'static str, &'static [u64], fn(u64) -> u64);

const INF: u64 = 0x7f80_0000;
const NAN: u64 = 0x7fc0_0001;
const ONE: u64 = 0x3f80_0000;
/// The sign of an f32.
const MINUS: u64 = 0x8000_0000;
/// 1 + 2⁻⁵² in f64.
const NEXT: u64 = 0x3ff0_0000_0000_0001;

const CASES: &[Case] = &[
    // Integers: modulo 2^N, by the sign of the type.
    ("add.s32 %r1, %r2, %r3;", &[0x7fff_ffff, 1], |_| 0x8000_0000),
    ("mul.lo.s32 %r1, %r2, %r3;", &[0x10001, 0x10001], |_| 0x20001),
    ("mad.lo.s64 %l1, %l2, %l3, %l4;", &[u64::MAX, 3, 1], |_| -2i64 as u64),
    ("mul.wide.s32 %l1, %r2, %r3;", &[0xffff_ffff, 2], |_| -2i64 as u64),
    ("mul.wide.u32 %l1, %r2, %r3;", &[0xffff_ffff, 2], |_| 0x1_ffff_fffe),
    ("div.s32 %r1, %r2, %r3;", &[0xffff_fff9, 2], |_| 0xffff_fffd),
    ("rem.s32 %r1, %r2, %r3;", &[0xffff_fff9, 2], |_| 0xffff_ffff),
    ("div.u32 %r1, %r2, %r3;", &[0xffff_fff9, 2], |_| 0x7fff_fffc),
    ("min.s32 %r1, %r2, %r3;", &[0xffff_ffff, 1], |_| 0xffff_ffff),
    ("max.u32 %r1, %r2, %r3;", &[0xffff_ffff, 1], |_| 0xffff_ffff),
    ("setp.lt.s32 %p1, %r2, %r3;", &[0xffff_ffff, 1], |_| 1),
    ("setp.lt.u32 %p1, %r2, %r3;", &[0xffff_ffff, 1], |_| 0),
    ("selp.b32 %r1, %r2, %r3, %p4;", &[5, 6, 1], |_| 5),
    ("selp.b32 %r1, %r2, %r3, %p4;", &[5, 6, 0], |_| 6),
    // Shifts by more than there are bits, of which all 32 of the second count.
    ("shr.s32 %r1, %r2, %r3;", &[0x8000_0000, 32], |_| 0xffff_ffff),
    ("shr.u32 %r1, %r2, %r3;", &[0x8000_0000, 32], |_| 0),
    ("shr.u32 %r1, %r2, %r3;", &[0x8000_0000, 31], |_| 1),
    ("shl.b32 %r1, %r2, %r3;", &[3, 0x8000_0001], |_| 0),
    ("shl.b64 %l1, %l2, %r3;", &[3, 63], |_| 1 << 63),
    ("bfi.b32 %r1, %r2, %r3, 4, 8;", &[0xabc, 0xffff_ffff], |_| 0xffff_fbcf),
    ("bfi.b32 %r1, %r2, %r3, 28, 8;", &[0xab, 0], |_| 0xb000_0000),
    ("bfi.b32 %r1, %r2, %r3, 0, 32;", &[0x1234_5678, 7], |_| 0x1234_5678),
    ("bfi.b32 %r1, %r2, %r3, 32, 8;", &[0xab, 7], |_| 7),
    ("not.b16 %h1, %h2;", &[0x00ff], |_| 0xff00),
    ("xor.pred %p1, %p2, %p3;", &[1, 1], |_| 0),
    // Conversions of integers cut, or extend by the sign.
    ("cvt.u16.u32 %h1, %r2;", &[0x1_2345], |_| 0x2345),
    ("cvt.s64.s32 %l1, %r2;", &[0xffff_fffe], |_| -2i64 as u64),
    ("cvt.u64.u32 %l1, %r2;", &[0xffff_fffe], |_| 0xffff_fffe),
    ("mov.b32 %r1, {%h2, %h3};", &[0x1111, 0x2222], |_| 0x2222_1111),
    ("mov.b32 {%h1, %h7}, %r2;", &[0x2222_1111], |_| 0x1111),
    ("mov.b32 {%h7, %h1}, %r2;", &[0x2222_1111], |_| 0x2222),
    // One rounding, to the nearest, to even at ties: 1 + 2^-24, 1 + 3 2^-24; subnormals count.
    ("add.f32 %f1, %f2, %f3;", &[ONE, 0x3380_0000], |_| ONE),
    ("add.rn.f32 %f1, %f2, %f3;", &[ONE + 1, 0x3380_0000], |_| ONE + 2),
    ("mul.f32 %f1, %f2, %f3;", &[0x0080_0000, 0x3f00_0000], |_| 0x0040_0000),
    ("sub.f32 %f1, %f2, %f3;", &[INF, INF], |_| NAN),
    // (1 + 2^-23)^2 - 1 - 2^-22 = 2^-46; of f64, (1 + 2^-52)^2 - 1 - 2^-51 = 2^-104.
    ("fma.rn.f32 %f1, %f2, %f3, %f4;", &[ONE + 1, ONE + 1, MINUS + ONE + 2], |_| 0x2880_0000),
    ("fma.rn.f64 %d1, %d2, %d3, %d4;", &[NEXT, NEXT, (1 << 63) + NEXT + 1], |_| 0x3970 << 48),
    // 1 - 2^-46: below 1 the last place is 2^-24.
    ("fma.rn.f32 %f1, %f2, %f3, %f4;", &[0x2880_0000, MINUS + ONE, ONE], |_| ONE),
    ("fma.rm.f32 %f1, %f2, %f3, %f4;", &[0x2880_0000, MINUS + ONE, ONE], |_| ONE - 1),
    ("fma.rm.f32 %f1, %f2, %f3, %f4;", &[0x2880_0000, ONE, ONE], |_| ONE),
    ("div.rn.f32 %f1, %f2, %f3;", &[ONE, 0x4040_0000], |_| 0x3eaa_aaab),
    ("div.rn.f32 %f1, %f2, %f3;", &[ONE, MINUS], |_| MINUS + INF),
    ("rcp.rn.f32 %f1, %f2;", &[0x4040_0000], |_| 0x3eaa_aaab),
    ("sqrt.rn.f32 %f1, %f2;", &[0x4000_0000], |_| 0x3fb5_04f3),
    ("sqrt.rn.f32 %f1, %f2;", &[MINUS + ONE], |_| NAN),
    // Of a number and no number, the number; -0 is below 0.
    ("min.f32 %f1, %f2, %f3;", &[NAN, ONE], |_| ONE),
    ("max.f32 %f1, %f2, %f3;", &[ONE, NAN], |_| ONE),
    ("max.f32 %f1, %f2, %f3;", &[NAN, NAN], |_| NAN),
    ("min.f32 %f1, %f2, %f3;", &[0, MINUS], |_| MINUS),
    ("max.f32 %f1, %f2, %f3;", &[MINUS, 0], |_| 0),
    ("neg.f32 %f1, %f2;", &[0], |_| MINUS),
    ("abs.f32 %f1, %f2;", &[MINUS + ONE], |_| ONE),
    // Comparisons with no number are false, with a u true.
    ("setp.lt.f32 %p1, %f2, %f3;", &[NAN, ONE], |_| 0),
    ("setp.ltu.f32 %p1, %f2, %f3;", &[NAN, ONE], |_| 1),
    ("setp.ne.f32 %p1, %f2, %f3;", &[NAN, ONE], |_| 0),
    ("setp.neu.f32 %p1, %f2, %f3;", &[NAN, NAN], |_| 1),
    ("setp.equ.f32 %p1, %f2, %f3;", &[ONE, 0], |_| 0),
    ("setp.num.f32 %p1, %f2, %f3;", &[ONE, NAN], |_| 0),
    ("setp.nan.f32 %p1, %f2, %f3;", &[ONE, NAN], |_| 1),
    ("setp.eq.f32 %p1, %f2, %f3;", &[0, MINUS], |_| 1),
    // Approximations, and zeros in place of subnormal numbers.
    ("ex2.approx.ftz.f32 %f1, %f2;", &[0x3f00_0000], |_| 0x3fb5_04f3),
    ("ex2.approx.ftz.f32 %f1, %f2;", &[0x4040_0000], |_| 0x4100_0000),
    ("ex2.approx.ftz.f32 %f1, %f2;", &[MINUS + INF], |_| 0),
    ("ex2.approx.ftz.f32 %f1, %f2;", &[0xc2ff_0000], |_| 0),
    ("ex2.approx.ftz.f32 %f1, %f2;", &[NAN], |_| NAN),
    ("rcp.approx.ftz.f32 %f1, %f2;", &[0x4040_0000], |_| 0x3eaa_aaab),
    ("rcp.approx.ftz.f32 %f1, %f2;", &[0x8000_0001], |_| MINUS + INF),
    ("rcp.approx.ftz.f32 %f1, %f2;", &[0x7f00_0000], |_| 0),
    // To f32: 2^24 + 1, and 1 + 2^-24 of f64; towards zero to a whole number; into [0, 1].
    ("cvt.rn.f32.s32 %f1, %r2;", &[0x0100_0001], |_| 0x4b80_0000),
    ("cvt.rn.f32.s32 %f1, %r2;", &[0xffff_ffff], |_| MINUS + ONE),
    ("cvt.rn.f32.u32 %f1, %r2;", &[0xffff_ffff], |_| 0x4f80_0000),
    ("cvt.rn.f32.f64 %f1, %d2;", &[0x3ff0_0000_1000_0000], |_| ONE),
    ("cvt.rn.f32.f64 %f1, %d2;", &[0x3ff0_0000_1000_0001], |_| ONE + 1),
    ("cvt.f64.f32 %d1, %f2;", &[ONE], |_| 0x3ff0_0000_0000_0000),
    ("cvt.rzi.f32.f32 %f1, %f2;", &[0xc02c_cccd], |_| 0xc000_0000),
    ("cvt.sat.f32.f32 %f1, %f2;", &[NAN], |_| 0),
    ("cvt.sat.f32.f32 %f1, %f2;", &[0x4000_0000], |_| ONE),
    ("cvt.sat.f32.f32 %f1, %f2;", &[0x3e80_0000], |_| 0x3e80_0000),
    // f16: 1 + 2^-11, the next f32, 1 + 3 2^-11, 65,520, the smallest number and half of it.
    ("cvt.rn.f16.f32 %h1, %f2;", &[0x3f80_1000], |_| 0x3c00),
    ("cvt.rn.f16.f32 %h1, %f2;", &[0x3f80_1001], |_| 0x3c01),
    ("cvt.rn.f16.f32 %h1, %f2;", &[0x3f80_3000], |_| 0x3c02),
    ("cvt.rn.f16.f32 %h1, %f2;", &[0x477f_f000], |_| 0x7c00),
    ("cvt.rn.f16.f32 %h1, %f2;", &[0x3380_0000], |_| 0x0001),
    ("cvt.rn.f16.f32 %h1, %f2;", &[0x3300_0000], |_| 0x0000),
    ("cvt.f32.f16 %f1, %h2;", &[0x0001], |_| 0x3380_0000),
    // bf16: ties, above one, cut, beyond the largest, no number.
    ("cvt.rn.bf16.f32 %h1, %f2;", &[0x3f80_8000], |_| 0x3f80),
    ("cvt.rn.bf16.f32 %h1, %f2;", &[0x3f81_8000], |_| 0x3f82),
    ("cvt.rn.bf16.f32 %h1, %f2;", &[0x3f80_8001], |_| 0x3f81),
    ("cvt.rz.bf16.f32 %h1, %f2;", &[0x3f80_ffff], |_| 0x3f80),
    ("cvt.rn.bf16.f32 %h1, %f2;", &[0x7f7f_ffff], |_| 0x7f80),
    ("cvt.rn.bf16.f32 %h1, %f2;", &[0xffc0_0001], |_| 0x7fff),
    // The first operand is the upper half.
    ("cvt.rn.bf16x2.f32 %r1, %f2, %f3;", &[ONE, 0x4000_0000], |_| 0x3f80_4000),
    // Lanes: of a butterfly, of one for all, and of one in segments of 8 lanes (24 << 8 | 31).
    ("shfl.sync.bfly.b32 %r1, %r8, 1, 31, -1;", &[], |lane| lane ^ 1),
    ("shfl.sync.bfly.b32 %r1, %r8, 16, 31, -1;", &[], |lane| lane ^ 16),
    ("shfl.sync.idx.b32 %r1, %r8, 5, 31, -1;", &[], |_| 5),
    ("shfl.sync.idx.b32 %r1, %r8, 5, 6175, -1;", &[], |lane| lane / 8 * 8 + 5),
    // Beyond the last lane of a segment (24 << 8 | 3) a lane reads itself.
    ("shfl.sync.idx.b32 %r1, %r8, 5, 6147, -1;", &[], |lane| lane),
    ("shfl.sync.idx.b32 %r7|%p1, %r8, 5, 6147, -1;", &[], |_| 0),
    ("shfl.sync.idx.b32 %r7|%p1, %r8, 2, 6147, -1;", &[], |_| 1),
];

const HEAD: &str = "\
.version 8.7
.target sm_90a
.address_size 64
.visible .entry k(
.param .u64 k_param_0,
.param .u64 k_param_1
)
{
.reg .f32 %f<9>;
.reg .f64 %d<9>;
.reg .b32 %r<9>;
.reg .b64 %l<9>;
.reg .b16 %h<9>;
.reg .pred %p<9>;
.reg .b64 %x;
.reg .b64 %y;
ld.param.u64 %x, [k_param_0];
ld.param.u64 %y, [k_param_1];
mov.u32 %r8, %tid.x;
mul.wide.u32 %l8, %r8, 8;
add.s64 %y, %y, %l8;
";

/// A kernel of one warp: each lane runs every case and leaves its result in eight bytes.
fn kernel() -> String {
    let mut text = HEAD.to_owned();
    for (i, (instruction, inputs, _)) in CASES.iter().enumerate() {
        for at in 0..inputs.len() {
            let (class, from, to) = (class(instruction, at + 2), 8 * (3 * i + at), at + 2);
            match bits(class) {
                Some(bits) => writeln!(text, "ld.global.b{bits} %{class}{to}, [%x+{from}];"),
                None => {
                    writeln!(text, "ld.global.b32 %r7, [%x+{from}];\nsetp.ne.s32 %p{to}, %r7, 0;")
                }
            }
            .unwrap();
        }
        let (class, to) = (class(instruction, 1), 8 * 32 * i);
        match bits(class) {
            Some(bits) => writeln!(text, "{instruction}\nst.global.b{bits} [%y+{to}], %{class}1;"),
            None => writeln!(
                text,
                "{instruction}\nselp.b32 %r7, 1, 0, %p1;\nst.global.b32 [%y+{to}], %r7;"
            ),
        }
        .unwrap();
    }
    text + "ret;\n}\n"
}

/// The class of a case's register of a number.
fn class(instruction: &str, number: usize) -> char {
    let is_there = |class: &char| instruction.contains(&format!("%{class}{number}"));
    "fdrlhp".chars().find(is_there).unwrap()
}

/// Bits of a register; a predicate has none that are stored.
fn bits(class: char) -> Option<usize> {
    match class {
        'h' => Some(16),
        'f' | 'r' => Some(32),
        'd' | 'l' => Some(64),
        _ => None,
    }
}

static FILE: File = File {
    name: "instructions",
    text: "",
    variants: &[("f32", "")],
    kernels: &[],
    images: &[],
    headers: &[],
};

#[test]
fn instructions_give_what_the_isa_says() {
    let Some(program) = programs::of_ptx("instructions", "f32", &kernel()) else { return };
    let engine = twin::compiled(&program.path, "24", Order::Forwards);
    let inputs = |case: &Case| [0, 1, 2].map(|i| case.1.get(i).copied().unwrap_or(0));
    let inputs: Vec<u8> = CASES.iter().flat_map(inputs).flat_map(u64::to_le_bytes).collect();
    let x = engine.upload(Elem::F64, &inputs).unwrap();
    let y = engine.upload(Elem::F64, &vec![0; 8 * 32 * CASES.len()]).unwrap();
    let pointer =
        |name, array: &Array| Argument::Pointer { name, to: "double", slice: array.slice() };
    engine.launch(&FILE, "k", Grid::line(1, 32), &[pointer("x", &x), pointer("y", &y)]);
    let results = y.download();
    let results = results.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b));
    let mut wrong = Vec::new();
    for (at, got) in results.enumerate() {
        let ((instruction, inputs, want), lane) = (CASES[at / 32], at as u64 % 32);
        let want = want(lane);
        let number = |bits| f32::from_bits(bits as u32);
        let right = match class(instruction, 1) {
            'f' if number(want).is_nan() => number(got).is_nan(),
            'f' if instruction.contains(".approx") => got.abs_diff(want) <= 2,
            _ => got == want,
        };
        if !right {
            wrong.push(format!("{instruction} {inputs:x?}, lane {lane}: {got:x}, not {want:x}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
