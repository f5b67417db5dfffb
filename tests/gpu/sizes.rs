//! What is too large for 32 bits, and what is to be read before it is written again.

use std::collections::VecDeque;
use std::convert::Infallible;

use incise::base::{Error, catch_device_error};
use incise::gpu::cusolver::fits;
use incise::gpu::launch::{Grid, int};
use incise::gpu::staging::Ring;

/// cuSOLVER counts a matrix's elements in 32 bits; larger ones are for our kernels.
#[test]
fn systems_that_the_library_counts() {
    let few = [1, 1];
    assert!(fits(46_340, 46_340, few) && !fits(46_341, 46_341, few));
    assert!(!fits(49_152, 49_152, few), "OPT-175B");
    assert!(fits(16_384, 16_384, [10_000, 16_384]));
    assert!(!fits(16_384, 1 << 18, few), "rows that lie far apart");
    assert!(!fits(16_384, 16_384, [1 << 18, 16_384]), "as many right sides");
    assert!(fits(0, 0, [0, 0]));
}

/// An error, which names the size, and not another size.
#[test]
fn sizes_that_kernels_count() {
    assert_eq!(int(i32::MAX as usize), i32::MAX);
    let refused = catch_device_error(|| Ok(int(1usize << 31))).unwrap_err();
    assert!(matches!(refused, Error::Device { .. }), "{refused:?}");
    assert!(refused.to_string().contains("2147483648"), "{refused}");
    assert!(catch_device_error(|| Ok(Grid::line(1 << 32, 32))).is_err());
    assert_eq!(Grid::of([2, 3, 1], 64), Grid { blocks: [2, 3, 1], threads: [64, 1, 1] });
}

/// Whatever the sizes, what was not copied is not written over: copies are made when they are
/// waited for, and not before.
#[test]
fn staged_bytes_stay_until_they_are_copied() {
    const HALF: usize = 64;
    let mut ring = Ring::new(HALF);
    let mut buffer = [0u8; 2 * HALF];
    let mut enqueued: VecDeque<(usize, Vec<u8>)> = VecDeque::new();
    let (mut copied, mut waits) = (0, 0);
    for i in 0..500usize {
        let bytes = vec![i as u8; i * 7 % (HALF + 1)];
        let behind = copied + enqueued.len();
        let mut copies = 0;
        let at = ring.place(
            bytes.len(),
            || Ok::<usize, Infallible>(behind),
            |upto| {
                copies = upto - copied;
                Ok(())
            },
        );
        waits += usize::from(copies > 0);
        for (from, want) in enqueued.drain(..copies) {
            assert_eq!(buffer[from..from + want.len()], want, "upload {i}");
        }
        copied += copies;
        let at = at.unwrap();
        buffer[at..at + bytes.len()].copy_from_slice(&bytes);
        enqueued.push_back((at, bytes));
    }
    assert!(waits > 100 && enqueued.len() < 40, "{waits} waits");
}
