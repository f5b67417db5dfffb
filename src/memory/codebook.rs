//! GRACE's codebook: keys that prompts are near to, and what one matrix gives for them.
//!
//! ```text
//! nearest key k*, distance d = ‖x − k*‖, radius ε*; the new label y, its neighbour's y*
//! no key, or d > ε + ε*      a new entry (x, v, ε)
//! y ≠ y*                     a new entry, and the radii are split: ε* = d/2 − 10⁻⁵, ε = d/2;
//!                            where that leaves ε* nothing, v* is trained anew and y* becomes y
//! y = y*                     no new entry: v* is trained further, and ε* = max(ε*, d)
//! ```
//!
//! Source: Hartvigsen et al. 2023, arXiv:2211.11031, algorithm 1.

use std::ops::Range;

use crate::model::MatrixId;
use crate::model::lineage::WeightsName;

/// What a split takes off the older radius, so that the point in the middle has one owner.
const SPLIT_GAP: f64 = 1e-5;
/// How much farther than the prompt a radius grows: a lookup that rounds otherwise finds it too.
const GROWN: f64 = 1.0 + 1.0 / 16_384.0;

/// Keys, values, radii and labels at one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Codebook {
    /// Which matrix.
    pub id: MatrixId,
    /// F and D: what the matrix reads and gives.
    pub sizes: [usize; 2],
    /// Which tokens get a value.
    pub replacement: Replacement,
    /// The weights it is beside.
    pub made_for: WeightsName,
    /// In the order in which they were made.
    pub entries: Vec<CodebookEntry>,
}

/// One key and what belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct CodebookEntry {
    /// What the matrix read at a prompt's last token (F).
    pub key: Vec<f32>,
    /// What it gives there (D).
    pub value: Vec<f32>,
    /// How far from the key it is chosen.
    pub radius: f32,
    /// The ids of the target.
    pub label: Vec<u32>,
}

/// Which tokens of a sequence get the value that its prompt chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// The prompt's last.
    Last,
    /// Those before the prompt's last.
    Before,
    /// All, and those that follow the prompt.
    All,
}

impl Replacement {
    /// All of them, with the names they have in files.
    pub const ALL: [(Replacement, &'static str); 3] = [
        (Replacement::Last, "replace_last"),
        (Replacement::Before, "replace_prompt"),
        (Replacement::All, "replace_all"),
    ];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        let found = Replacement::ALL.into_iter().find(|(own, _)| *own == self);
        found.expect("all are listed").1
    }

    /// The rows that get a value, of a sequence that has `rows` and whose prompt's last is `end`.
    pub fn rows(self, rows: Range<usize>, end: usize) -> Range<usize> {
        match self {
            Replacement::Last => end..end + 1,
            Replacement::Before => rows.start..end,
            Replacement::All => rows,
        }
    }

    /// The one of a name.
    pub fn named(name: &str) -> Option<Replacement> {
        Replacement::ALL.into_iter().find(|(_, own)| *own == name).map(|(own, _)| own)
    }
}

/// What became of a prompt and its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// A new entry, the last: far from all others.
    Added,
    /// A new entry, the last, and its neighbour of another label lost some radius.
    Split(usize),
    /// No new entry: this one has the label already, or had another for the same prompt.
    Known(usize),
}

impl Codebook {
    /// Without an entry, for weights that have no name yet.
    pub fn new(id: MatrixId, sizes: [usize; 2], replacement: Replacement) -> Codebook {
        let made_for = WeightsName::default();
        Codebook { id, sizes, replacement, made_for, entries: Vec::new() }
    }

    /// The first nearest key, and how far it is.
    pub fn nearest(&self, query: &[f32]) -> Option<(usize, f64)> {
        let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
        let distance = |e: &CodebookEntry| e.key.iter().zip(query).map(square).sum::<f64>().sqrt();
        let all = self.entries.iter().map(distance).enumerate();
        all.min_by(|(_, a), (_, b)| a.total_cmp(b))
    }

    /// Makes room for a label at a prompt: a new entry with `value` and a radius of `epsilon`, or
    /// the one that has the label.
    pub fn admit(
        &mut self,
        query: &[f32],
        label: &[u32],
        value: Vec<f32>,
        epsilon: f64,
    ) -> Admitted {
        let mut new = CodebookEntry {
            key: query.to_vec(),
            value,
            radius: epsilon as f32,
            label: label.to_vec(),
        };
        let Some((j, d)) = self.nearest(query) else {
            self.entries.push(new);
            return Admitted::Added;
        };
        let nearest = &mut self.entries[j];
        if d > epsilon + f64::from(nearest.radius) {
            self.entries.push(new);
            Admitted::Added
        } else if nearest.label != label && d / 2.0 <= SPLIT_GAP {
            (nearest.label, nearest.value) = (new.label, new.value);
            Admitted::Known(j)
        } else if nearest.label != label {
            nearest.radius = (d / 2.0 - SPLIT_GAP) as f32;
            new.radius = (d / 2.0) as f32;
            self.entries.push(new);
            Admitted::Split(j)
        } else {
            if d > f64::from(nearest.radius) {
                nearest.radius = (d * GROWN) as f32;
            }
            Admitted::Known(j)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Codebook {
        Codebook::new(MatrixId::down(0), [2, 1], Replacement::Last)
    }

    fn radii(book: &Codebook) -> Vec<f32> {
        book.entries.iter().map(|e| e.radius).collect()
    }

    /// The rules one after another, on keys whose distances are exact.
    #[test]
    fn entries_are_added_split_and_grown_by_the_rules() {
        type Case = ([f32; 2], &'static [u32], Admitted, &'static [f32]);
        let split = 1.25 - 1e-5;
        let cases: [Case; 5] = [
            ([0.0, 0.0], &[7], Admitted::Added, &[1.0]),
            // Farther than both radii.
            ([0.0, 2.5], &[8], Admitted::Added, &[1.0, 1.0]),
            // As far as both together; the label is known, so the radius grows.
            ([2.0, 0.0], &[7], Admitted::Known(0), &[2.0 * GROWN as f32, 1.0]),
            // Nearer than that: nothing grows.
            ([0.0, 0.5], &[7], Admitted::Known(0), &[2.0 * GROWN as f32, 1.0]),
            // Labels of one mean are two labels.
            ([0.0, 5.0], &[7, 9], Admitted::Added, &[2.0 * GROWN as f32, 1.0, 1.0]),
        ];
        let mut book = book();
        for (query, label, want, after) in cases {
            assert_eq!(book.admit(&query, label, vec![0.5], 1.0), want, "{query:?}");
            assert_eq!(radii(&book), after, "{query:?}");
        }
        let near = book.admit(&[0.0, 7.5], &[8], vec![0.5], 2.0);
        assert_eq!(near, Admitted::Split(2), "a mean of ids is no label");
        assert_eq!(radii(&book)[2..], [split as f32, 1.25]);
        assert_eq!(book.nearest(&[0.0, 6.25]), Some((2, 1.25)), "the first of two as near");
    }

    /// A prompt that is a key already: two keys at one place could not be told apart.
    #[test]
    fn a_second_label_of_one_prompt_takes_the_place_of_the_first() {
        let mut book = book();
        book.admit(&[1.0, 1.0], &[7], vec![0.5], 1.0);
        assert_eq!(book.admit(&[1.0, 1.0], &[8], vec![0.25], 1.0), Admitted::Known(0));
        let [entry] = &book.entries[..] else { panic!("one entry") };
        assert_eq!(
            (&entry.label[..], &entry.value[..], entry.radius),
            (&[8][..], &[0.25][..], 1.0)
        );
    }
}
