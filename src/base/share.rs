//! `i/n`: one machine's share of a list of work, every n-th item from the i-th, both from 0.

use std::fmt;
use std::str::FromStr;

/// A share of a list that n machines divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which of them, from 0.
    pub i: u64,
    /// How many there are.
    pub n: u64,
}

impl Share {
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
        match numbers {
            Some((i, n)) if i < n => Ok(Share { i, n }),
            _ => Err(format!("`{text}` is not a shard: say 0/4 to 3/4")),
        }
    }
}
