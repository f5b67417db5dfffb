//! Layers as people name them: `3-8`, `1,3` or both, `0,3-5`.

use std::collections::BTreeSet;

/// Layers named by a user, ascending.
///
/// # Errors
///
/// What is neither a layer nor a range; in words.
pub fn parse(text: &str) -> Result<Layers, String> {
    let mut layers = BTreeSet::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |s: &str| {
            s.trim().parse::<usize>().map_err(|_| format!("`{part}` is not a layer or a range"))
        };
        let (from, to) = (number(from)?, number(to)?);
        if from > to || to > 100_000 {
            return Err(format!("`{part}` is not a range of layers"));
        }
        layers.extend(from..=to);
    }
    Ok(Layers(layers.into_iter().collect()))
}

/// Ascending, without repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers(pub Vec<usize>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_lists() {
        assert_eq!(parse("3-5").unwrap().0, [3, 4, 5]);
        assert_eq!(parse("1,3").unwrap().0, [1, 3]);
        assert_eq!(parse("7, 0-2,1").unwrap().0, [0, 1, 2, 7]);
        for bad in ["", "a", "5-3", "1-", "-1", "1,,2", "0-99999999999"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
