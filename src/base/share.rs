//! `i/n`: one machine's share of a list of work, every n-th item from the i-th, both from 0.

use std::fmt;
use std::str::FromStr;

/// A share of a list that n machines divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    i: u64,
    n: u64,
}

impl Share {
    /// Share i of n, from 0; nothing where there is no such share.
    pub fn new(i: u64, n: u64) -> Option<Share> {
        (i < n).then_some(Share { i, n })
    }

    /// Which of them, from 0.
    pub fn i(self) -> u64 {
        self.i
    }

    /// How many there are.
    pub fn n(self) -> u64 {
        self.n
    }

    /// Whether the item at this place, from 0, belongs to it.
    pub fn has(self, place: u64) -> bool {
        place % self.n == self.i
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.i, self.n)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let numbers =
            text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let share = numbers.and_then(|(i, n)| Share::new(i, n));
        share.ok_or_else(|| format!("`{text}` is not a shard, as 0/4 to 3/4 are"))
    }
}
