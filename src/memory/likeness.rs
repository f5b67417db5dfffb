//! How alike texts are by their tokens: TF-IDF and the cosine.
//!
//! ```text
//! w_t(d) = n_t(d) · (ln((1 + N)/(1 + N_t)) + 1)      n_t(d) how often token t is in text d, N_t in
//!                                                    how many of the N texts it is
//! likeness(d, e) = ⟨w(d), w(e)⟩ / (‖w(d)‖ ‖w(e)‖)
//! ```
//!
//! Source: Salton, Buckley 1988, with the smoothing that scikit-learn has.

use std::collections::BTreeMap;

/// Texts that others are compared with.
#[derive(Clone, Debug)]
pub struct Texts {
    rarity: BTreeMap<u32, f64>,
    unseen: f64,
    weights: Vec<BTreeMap<u32, f64>>, // of norm 1, or empty
}

impl Texts {
    /// Of their tokens.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a [u32]>) -> Texts {
        let counts: Vec<BTreeMap<u32, f64>> = texts.into_iter().map(counts).collect();
        let mut seen = BTreeMap::<u32, f64>::new();
        for &token in counts.iter().flat_map(BTreeMap::keys) {
            *seen.entry(token).or_default() += 1.0;
        }
        let n = counts.len() as f64;
        let rarity = |seen: f64| ((1.0 + n) / (1.0 + seen)).ln() + 1.0;
        let rare = seen.into_iter().map(|(token, seen)| (token, rarity(seen))).collect();
        let mut texts = Texts { rarity: rare, unseen: rarity(0.0), weights: Vec::new() };
        texts.weights = counts.into_iter().map(|counts| texts.weighted(counts)).collect();
        texts
    }

    /// How alike each of them is to another: from 0 to 1.
    pub fn likeness(&self, to: &[u32]) -> Vec<f64> {
        let to = self.weighted(counts(to));
        let product = |own: &BTreeMap<u32, f64>| {
            own.iter().filter_map(|(token, w)| to.get(token).map(|v| v * w)).sum()
        };
        self.weights.iter().map(product).collect()
    }

    /// All of them, the most alike first; of several as alike, the first first.
    pub fn nearest(&self, to: &[u32]) -> Vec<usize> {
        let likeness = self.likeness(to);
        let mut order: Vec<usize> = (0..likeness.len()).collect();
        order.sort_by(|&a, &b| likeness[b].total_cmp(&likeness[a]));
        order
    }

    fn weighted(&self, mut counts: BTreeMap<u32, f64>) -> BTreeMap<u32, f64> {
        for (token, n) in &mut counts {
            *n *= self.rarity.get(token).unwrap_or(&self.unseen);
        }
        let norm = counts.values().map(|w| w * w).sum::<f64>().sqrt();
        counts.values_mut().for_each(|w| *w /= norm);
        counts
    }
}

fn counts(text: &[u32]) -> BTreeMap<u32, f64> {
    let mut counts = BTreeMap::new();
    text.iter().for_each(|&token| *counts.entry(token).or_default() += 1.0);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: of two texts, token 1 is in both, so its weight is 1, and 2 and 3 are in one each.
    #[test]
    fn rare_tokens_count_for_more() {
        let texts = Texts::new([&[1, 2][..], &[1, 3, 3]]);
        let rare = (3.0f64 / 2.0).ln() + 1.0;
        let of = texts.likeness(&[3]);
        let want = 2.0 * rare / (1.0 + 4.0 * rare * rare).sqrt();
        assert!(of[0] == 0.0 && (of[1] - want).abs() < 4.0 * f64::EPSILON, "{of:?}, {want}");
        assert_eq!(texts.nearest(&[2]), [0, 1]);
        assert_eq!(texts.nearest(&[9]), [0, 1], "none is alike: in their order");
    }
}
