//! The random numbers of NumPy's `RandomState`, so that what others published with a seed can be
//! drawn again: `RandomState(seed).randn`, to the bit but for the last place of a logarithm.
//!
//! ```text
//! words    MT19937 (Matsumoto and Nishimura 1998), seeded as by `init_genrand`
//! uniform  of two words, 53 bits, in [0, 1)
//! normal   Marsaglia's polar method: a, b uniform in [−1, 1) until 0 < r = a² + b² < 1;
//!          f = √(−2 ln r / r), and b f comes before a f
//! ```
//!
//! What has nothing to reproduce draws by [`Rng`](super::Rng).

const N: usize = 624;
const M: usize = 397;

/// A stream of random numbers, as NumPy's class of that name gives.
#[derive(Clone, Debug)]
pub struct RandomState {
    words: [u32; N],
    used: usize,
    kept: Option<f64>, // the second normal of a pair
}

impl RandomState {
    /// The stream of a seed.
    pub fn new(seed: u32) -> RandomState {
        let mut words = [seed; N];
        for i in 1..N {
            let last = words[i - 1];
            words[i] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        RandomState { words, used: N, kept: None }
    }

    fn word(&mut self) -> u32 {
        if self.used == N {
            self.used = 0;
            for i in 0..N {
                let y = (self.words[i] & 0x8000_0000) | (self.words[(i + 1) % N] & 0x7FFF_FFFF);
                let odd = if y & 1 == 1 { 0x9908_B0DF } else { 0 };
                self.words[i] = self.words[(i + M) % N] ^ (y >> 1) ^ odd;
            }
        }
        let mut y = self.words[self.used];
        self.used += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let (high, low) = (self.word() >> 5, self.word() >> 6);
        (f64::from(high) * f64::from(1u32 << 26) + f64::from(low)) / (1u64 << 53) as f64
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        if let Some(kept) = self.kept.take() {
            return kept;
        }
        loop {
            let (a, b) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let r = a * a + b * b;
            if r > 0.0 && r < 1.0 {
                let f = (-2.0 * r.ln() / r).sqrt();
                self.kept = Some(f * a);
                return f * b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What NumPy 2.4.6 gives for `RandomState(1).randn(1000)`: the first five and the last.
    #[test]
    fn numpy_draws_the_same() {
        let mut state = RandomState::new(1);
        let ours: Vec<f64> = (0..1000).map(|_| state.normal()).collect();
        let first = [
            1.6243453636632417,
            -0.6117564136500754,
            -0.5281717522634557,
            -1.0729686221561705,
            0.8654076293246785,
        ];
        for (ours, numpy) in ours.iter().zip(first).chain([(&ours[999], -0.18695501653274957)]) {
            assert!((ours - numpy).abs() <= f64::EPSILON * numpy.abs(), "{ours} {numpy}");
        }
    }
}
