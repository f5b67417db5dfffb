//! The blocks of a kernel's code, the loops they form, and the path through some of them that does
//! the most.
//!
//! A block is run from its first instruction to its last. A loop is a block that every way in goes
//! through, its head, and all from which its head is reached without leaving them (Aho, Sethi,
//! Ullman 1986, 10.4: natural loops). Code that a call runs is no part of the kernel's own.

use std::collections::BTreeSet;
use std::ops::Range;

use super::instruction::Instruction;

/// What an instruction is worth, the weightiest first.
pub type Worth = [i64; 5];

/// A kernel's blocks, the first the entry.
pub struct Graph<'a> {
    code: &'a [Instruction],
    blocks: Vec<Block>,
    /// Blocks that are reached, each after some block that leads to it and, but for loops, all.
    order: Vec<usize>,
}

struct Block {
    instructions: Range<usize>,
    next: Vec<usize>,
}

/// A head, and all blocks with it.
pub struct Loop {
    pub head: usize,
    pub blocks: BTreeSet<usize>,
}

impl<'a> Graph<'a> {
    pub fn of(code: &'a [Instruction]) -> Graph<'a> {
        let index = |at: usize| code.binary_search_by_key(&at, |i| i.at).expect("an instruction");
        let mut starts = BTreeSet::from([0]);
        for (i, instruction) in code.iter().enumerate() {
            starts.extend(instruction.target().map(index));
            let ends = instruction.target().is_some() || instruction.leaves();
            starts.extend((ends || instruction.is_exit()).then_some(i + 1));
        }
        starts.insert(code.len());
        let starts: Vec<usize> = starts.into_iter().collect();
        let block = |i: usize| starts.binary_search(&i).expect("a block begins here");
        let blocks = starts.windows(2).map(|ends| {
            let last = &code[ends[1] - 1];
            let on = (!last.leaves() && ends[1] < code.len()).then_some(ends[1]);
            let next = on.into_iter().chain(last.target().map(index)).map(block).collect();
            Block { instructions: ends[0]..ends[1], next }
        });
        let mut graph = Graph { code, blocks: blocks.collect(), order: Vec::new() };
        graph.order = graph.reached();
        graph
    }

    /// Blocks in the reverse of the order in which a walk is done with them.
    fn reached(&self) -> Vec<usize> {
        let (mut seen, mut done) = (BTreeSet::from([0]), Vec::new());
        let mut walk = vec![(0, 0)];
        while let Some((block, nth)) = walk.pop() {
            match self.blocks[block].next.get(nth) {
                None => done.push(block),
                Some(&next) => {
                    walk.push((block, nth + 1));
                    if seen.insert(next) {
                        walk.push((next, 0));
                    }
                }
            }
        }
        done.reverse();
        done
    }

    /// The instructions of a block.
    pub fn instructions(&self, block: usize) -> &'a [Instruction] {
        &self.code[self.blocks[block].instructions.clone()]
    }

    /// All blocks that are reached.
    pub fn whole(&self) -> BTreeSet<usize> {
        self.order.iter().copied().collect()
    }

    /// Blocks that every way to a block goes through, itself among them: of all blocks.
    fn dominators(&self) -> Vec<BTreeSet<usize>> {
        let mut dominators = vec![self.whole(); self.blocks.len()];
        dominators[0] = BTreeSet::from([0]);
        loop {
            let before = dominators.clone();
            for &block in &self.order[1..] {
                let ways =
                    self.order.iter().filter(|&&from| self.blocks[from].next.contains(&block));
                let common = ways.map(|&from| dominators[from].clone());
                let mut common = common.reduce(|a, b| &a & &b).expect("a way to it");
                common.insert(block);
                dominators[block] = common;
            }
            if dominators == before {
                return dominators;
            }
        }
    }

    /// All loops, by their heads.
    pub fn loops(&self) -> Vec<Loop> {
        let dominators = self.dominators();
        let mut loops: Vec<Loop> = Vec::new();
        for &tail in &self.order {
            for &head in
                self.blocks[tail].next.iter().filter(|head| dominators[tail].contains(head))
            {
                let blocks = self.leading_to(tail, head);
                match loops.iter_mut().find(|l| l.head == head) {
                    Some(l) => l.blocks.extend(blocks),
                    None => loops.push(Loop { head, blocks }),
                }
            }
        }
        loops
    }

    /// A head, a tail, and all from which the tail is reached without the head.
    fn leading_to(&self, tail: usize, head: usize) -> BTreeSet<usize> {
        let mut blocks = BTreeSet::from([head]);
        let mut todo = vec![tail];
        while let Some(block) = todo.pop() {
            if blocks.insert(block) {
                todo.extend(self.order.iter().filter(|&&b| self.blocks[b].next.contains(&block)));
            }
        }
        blocks
    }

    /// Of all ways from `head` through some blocks, back to it or to the end of the kernel, the
    /// instructions of the one that is worth the most; loops inside are gone through once.
    pub fn best(
        &self,
        head: usize,
        blocks: &BTreeSet<usize>,
        worth: impl Fn(&Instruction) -> Worth,
    ) -> Vec<&'a Instruction> {
        let plus = |a: Worth, b: Worth| std::array::from_fn(|i| a[i] + b[i]);
        let place = |block: usize| self.order.iter().position(|&b| b == block);
        // By block, the most that is had from there on, and where it goes on.
        let mut most: Vec<Option<(Worth, Option<usize>)>> = vec![None; self.blocks.len()];
        for &block in self.order.iter().rev().filter(|block| blocks.contains(block)) {
            let next = &self.blocks[block].next;
            let ends = next.is_empty() || next.contains(&head);
            let later = next.iter().filter(|&&b| place(b) > place(block));
            let on = later.filter_map(|&b| most[b].map(|(rest, _)| (rest, Some(b))));
            let on = on.chain(ends.then_some((Worth::default(), None))).max();
            let own = self.instructions(block).iter().map(&worth).fold(Worth::default(), plus);
            most[block] = on.map(|(rest, to)| (plus(own, rest), to));
        }
        let mut path = Vec::new();
        let mut block = Some(head);
        while let Some(at) = block {
            path.extend(self.instructions(at));
            block = most[at].and_then(|(_, to)| to);
        }
        path
    }
}

#[cfg(test)]
fn code(lines: &[&str]) -> Vec<Instruction> {
    let all = lines.iter().enumerate();
    all.map(|(i, line)| Instruction::parse(&format!("/*{:04x}*/ {line} ;", 16 * i)).unwrap())
        .collect()
}

#[test]
fn loops_and_the_way_through_them() {
    let code = code(&[
        "MOV R0, 0x10",
        "@P0 BRA 0x60", // of the outer loop: past all of it
        "LDG.E R2, desc[UR4][R2.64]",
        "FADD R1, R1, R2", // of the inner loop
        "@P1 BRA 0x30",
        "@P2 BRA 0x10",
        "EXIT",
        "BRA 0x70", // what fills the rest is not reached
    ]);
    let graph = Graph::of(&code);
    let heads = |l: &Loop| (graph.instructions(l.head)[0].at, l.blocks.len());
    let mut loops: Vec<_> = graph.loops().iter().map(heads).collect();
    loops.sort();
    assert_eq!(loops, [(0x10, 4), (0x30, 1)]);
    let outer = graph.loops().into_iter().find(|l| l.blocks.len() == 4).unwrap();
    let ways = |worth: fn(&Instruction) -> Worth| {
        let path = graph.best(outer.head, &outer.blocks, worth);
        path.iter().map(|i| i.at).collect::<Vec<_>>()
    };
    assert_eq!(ways(|_| [1, 0, 0, 0, 0]), [0x10, 0x20, 0x30, 0x40, 0x50]);
    let all = graph.best(0, &graph.whole(), |_| [-1, 0, 0, 0, 0]);
    assert_eq!(all.iter().map(|i| i.at).collect::<Vec<_>>(), [0x00, 0x10, 0x60]);
}
