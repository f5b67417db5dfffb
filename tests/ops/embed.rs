//! Embedding: rows of a weight, however it is held, and of the positions.

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::cuda::embed as cuda;
use incise::ops::embed;
use incise::tensor::{Precision, Tensor, Weight};

use crate::support::budget::{self, Op};
use crate::support::toy::{Draw, Held, PLAIN, all_held, cast, weight};
use crate::support::twin;

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

impl Embed {
    /// With weights in elements of two types, tokens' and positions', row after row.
    fn kernel(&self, engine: &Engine, [of_tokens, of_positions]: [Elem; 2]) -> Vec<Vec<f64>> {
        let n = self.ids.len();
        let index = |x: Vec<f64>| twin::up(engine, Elem::I32, &x);
        let ids = index(self.ids.iter().map(|&i| f64::from(i)).collect());
        let at = index(self.at.iter().map(|&i| i as f64).collect());
        let tokens = twin::up(engine, of_tokens, &self.tokens.1);
        let positions = self.positions.as_ref().map(|p| twin::up(engine, of_positions, &p.1));
        let mut x = engine.array(Elem::F32, n * self.d).unwrap();
        cuda::forward(engine, &ids, &tokens, positions.as_ref().map(|p| (p, &at)), &mut x);
        vec![twin::down(&x)]
    }
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::embed::kernels") else { return };
    let (single, bf16, half) = (Elem::F32, Elem::BF16, Elem::F16);
    for (learned, elems) in [
        (false, [single; 2]),
        (false, [bf16; 2]),
        (false, [half; 2]),
        (true, [single; 2]),
        (true, [bf16; 2]),
        (true, [half; 2]),
        (true, [half, single]),
        (true, [single, bf16]),
    ] {
        for shape in [[0, 5, 3], [1, 1, 1], [71, 13, 129], [16, 997, 768]] {
            let name = format!("embed {elems:?}, learned {learned}, {shape:?}");
            let inputs = |draw: &mut Draw| {
                let mut embed = Embed::draw(draw, shape, PLAIN, learned);
                let matrices = [Some(&mut embed.tokens), embed.positions.as_mut()];
                for (matrix, elem) in matrices.into_iter().zip(elems) {
                    matrix.into_iter().for_each(|(_, v)| *v = twin::rounded(elem, v));
                }
                embed
            };
            let run = |embed: &Embed, engine: &Engine| embed.kernel(engine, elems);
            budget::kernel(&name, &engines, &[Elem::F32], inputs, run);
        }
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
