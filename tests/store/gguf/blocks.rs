//! Blocks of quantised numbers. `tools/check_gguf` holds every type to the `gguf` package, bit for
//! bit; here are blocks made by hand, recorded ones, and what holds for any block.

use std::fs;

use half::f16;
use incise::base::rng::Rng;
use incise::store::gguf::{BlockGrid, BlockType, Step};
use serde_json::Value;

use crate::support::root;

const GRIDS: [&str; 10] =
    ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"];

fn grid(name: &str) -> &'static BlockGrid {
    BlockType::by_name(name).unwrap().grid().unwrap()
}

fn half(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}

fn values(name: &str, block: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; grid(name).elements];
    grid(name).values(block, &mut out);
    out
}

/// Random bytes.
fn block(name: &str, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed, name);
    (0..grid(name).bytes).map(|_| rng.bits() as u8).collect()
}

/// The bytes that pairs of hexadecimal digits name.
fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().as_chunks::<2>().0.iter();
    pairs.map(|p| u8::from_str_radix(str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}

/// What tools/gguf_blocks.py recorded from the `gguf` package, bit for bit.
#[test]
fn values_of_recorded_blocks() {
    let file = root().join("tests/golden/gguf_blocks.json");
    let recorded: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    for name in GRIDS {
        let field = |field: &str| bytes(recorded[name][field].as_str().unwrap());
        let want = field("values");
        let want: Vec<u32> =
            want.as_chunks::<4>().0.iter().map(|b| u32::from_be_bytes(*b)).collect();
        let mut got = vec![0.0; 2 * grid(name).elements];
        grid(name).values(&field("blocks"), &mut got);
        let got: Vec<u32> = got.into_iter().map(f32::to_bits).collect();
        assert_eq!(got, want, "{name}");
    }
}

/// Scale −1/2; codes 0 to 15 less 8, then the same backwards. Code 0 times a negative scale is −0.
#[test]
fn a_block_of_q4_0() {
    let mut block = half(-0.5).to_vec();
    block.extend((0..16).map(|j| j | (15 - j) << 4));
    let values = values("Q4_0", &block);
    for j in 0..16 {
        let want = -0.5 * (j as f32 - 8.0);
        assert_eq!(values[j].to_bits(), want.to_bits(), "{j}");
        assert_eq!(values[31 - j].to_bits(), want.to_bits(), "{j}");
    }
}

#[test]
fn a_block_of_q5_1() {
    // The fifth bits: of element 0, of element 9 and of element 31.
    let mut block = [half(2.0), half(-7.0)].concat();
    block.extend((1u32 | 1 << 9 | 1 << 31).to_le_bytes());
    block.extend([0; 15].into_iter().chain([0x30])); // element 31 has 3 below
    let values = values("Q5_1", &block);
    let at = |i: usize| (values[i] + 7.0) / 2.0;
    for i in 0..32 {
        let want = [(0, 16.0), (9, 16.0), (31, 19.0)];
        let want = want.into_iter().find(|w| w.0 == i).map_or(0.0, |w| w.1);
        assert_eq!(at(i), want, "{i}");
    }
}

#[test]
fn a_block_of_q8_0() {
    let block: Vec<u8> = half(0.25).into_iter().chain((0..32).map(|i| i * 8)).collect();
    let values = values("Q8_0", &block);
    for (i, value) in values.into_iter().enumerate() {
        assert_eq!(value, 0.25 * f32::from((i as u8 * 8) as i8), "{i}");
    }
}

/// Groups 1 and 6 of Q4_K, of which the second has its bits in three places.
#[test]
fn a_block_of_q4_k() {
    let mut block = vec![0; 144];
    block[..2].copy_from_slice(&half(0.5));
    block[2..4].copy_from_slice(&half(0.25));
    let (one, six) = ([63, 2], [0b10_0101, 0b11_1001]);
    block[4 + 1] = one[0];
    block[4 + 5] = one[1];
    block[4 + 10] = (six[0] & 15) | (six[1] & 15) << 4;
    block[4 + 2] |= six[0] >> 4 << 6;
    block[4 + 6] |= six[1] >> 4 << 6;
    block[16..144].fill(0x53); // codes 3 and 5, 32 by turns
    let values = values("Q4_K", &block);
    let want = |[s, t]: [u8; 2], code: f32| 0.5 * f32::from(s) * code - 0.25 * f32::from(t);
    for (g, group) in values.chunks_exact(32).enumerate() {
        let steps = [(1, one), (6, six)].into_iter().find(|s| s.0 == g).map_or([0, 0], |s| s.1);
        let code = if g % 2 == 0 { 3.0 } else { 5.0 };
        assert!(group.iter().all(|&value| value == want(steps, code)), "group {g}: {group:?}");
    }
}

/// The ends of the codes, which the names of the types promise.
#[test]
fn codes_of_each_type() {
    let ends = GRIDS.map(|name| (*grid(name).codes().start(), *grid(name).codes().end()));
    let five = [(-16, 15), (0, 31)];
    assert_eq!(ends[..2], [(-8, 7), (0, 15)]);
    assert_eq!(ends[2..4], five);
    assert_eq!(ends[4..], [(-128, 127), (0, 3), (-4, 3), (0, 15), (0, 31), (-32, 31)]);
}

/// Every plane's bits lie inside the block, each bit belongs to one element, and no step has it.
#[test]
fn codes_have_their_own_bits() {
    for name in GRIDS {
        let grid = grid(name);
        let empty = vec![0; grid.bytes];
        let (mut zero, mut steps) = (vec![0; grid.elements], vec![Step::default(); grid.groups()]);
        grid.read(&empty, &mut steps, &mut zero);
        let mut of_codes = 0;
        for bit in 0..8 * grid.bytes {
            let mut block = empty.clone();
            block[bit / 8] |= 1 << (bit % 8);
            let mut codes = vec![0; grid.elements];
            grid.read(&block, &mut steps, &mut codes);
            let changed = codes.iter().zip(&zero).filter(|(a, b)| a != b).count();
            assert!(changed <= 1, "{name}: bit {bit}");
            of_codes += changed;
        }
        let bits = (grid.codes().count() as f64).log2() as usize;
        assert_eq!(of_codes, bits * grid.elements, "{name}");
    }
}

/// A block with its own codes is the same block; with others it has those, and its own steps.
#[test]
fn codes_put_back() {
    for name in GRIDS {
        let grid = grid(name);
        for seed in 0..32 {
            let old = block(name, seed);
            let (mut steps, mut codes) =
                (vec![Step::default(); grid.groups()], vec![0; grid.elements]);
            grid.read(&old, &mut steps, &mut codes);
            let mut same = old.clone();
            grid.put_codes(&mut same, &codes);
            assert_eq!(same, old, "{name}");

            let mut other = block(name, seed + 32);
            let mut others = vec![0; grid.elements];
            let mut theirs = steps.clone();
            grid.read(&other, &mut theirs, &mut others);
            grid.put_codes(&mut other, &codes);
            let (mut steps, mut back) = (theirs.clone(), vec![0; grid.elements]);
            grid.read(&other, &mut steps, &mut back);
            assert_eq!(back, codes, "{name}");
            let bits = |steps: &[Step]| -> Vec<[u32; 2]> {
                steps.iter().map(|s| [s.scale.to_bits(), s.offset.to_bits()]).collect()
            };
            assert_eq!(bits(&steps), bits(&theirs), "{name}");
        }
    }
}

#[test]
#[should_panic(expected = "8 is not in -8..=7")]
fn a_code_there_is_not() {
    grid("Q4_0").put_codes(&mut [0; 18], &[8; 32]);
}
