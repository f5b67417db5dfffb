//! Embedding: rows of a weight, however it is held, and of the positions.

use incise::base::Float;
use incise::ops::embed;
use incise::tensor::{Precision, Tensor, Weight};

use crate::support::budget::{self, Op};
use crate::support::toy::{Draw, Held, PLAIN, all_held, cast, weight};

struct Embed {
    ids: Vec<u32>,
    at: Vec<usize>,
    d: usize,
    tokens: (Weight, Vec<f64>),
    positions: Option<(Weight, Vec<f64>)>,
}

impl Embed {
    /// N tokens of a vocabulary of V, some of them more than once.
    fn draw(draw: &mut Draw, [n, v, d]: [usize; 3], held: Held, learned: bool) -> Embed {
        let places = 7;
        Embed {
            ids: (0..n).map(|_| draw.below(v) as u32).collect(),
            at: (0..n).map(|_| draw.below(places)).collect(),
            d,
            tokens: weight(draw, [v, d], held),
            positions: learned.then(|| weight(draw, [places, d], held)),
        }
    }
}

impl Op for Embed {
    const OUTPUTS: &'static [&'static str] = &["x"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let d = self.d;
        let rows = self.ids.iter().zip(&self.at).flat_map(|(&id, &at)| {
            let mut x = cast::<T>(&self.tokens.1[id as usize * d..][..d]);
            if let Some((_, p)) = &self.positions {
                x.iter_mut().zip(&p[at * d..]).for_each(|(x, &p)| *x += T::of(p));
            }
            x
        });
        vec![rows.collect()]
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        let n = self.ids.len();
        let mut x = Tensor::of(precision, &[n, self.d], &vec![f64::NAN; n * self.d]);
        let positions = self.positions.as_ref().map(|(w, _)| (w, &self.at[..]));
        embed::forward(&self.ids, &self.tokens.0, positions, &mut x);
        vec![x.to_f64()]
    }
}

#[test]
fn cases() {
    for learned in [false, true] {
        for (case, shape) in [
            ("no token", [0, 5, 3]),
            ("one token, one column", [1, 1, 1]),
            ("more tokens than words", [71, 13, 129]),
            ("GPT-2 small", [16, 997, 768]),
        ] {
            let name = format!("embed, learned {learned}, {case}");
            budget::hold(&name, |draw| Embed::draw(draw, shape, PLAIN, learned));
        }
        for held in all_held() {
            let name = format!("embed, learned {learned}, {held:?}");
            budget::hold(&name, |draw| Embed::draw(draw, [5, 13, 37], held, learned));
        }
    }
}
