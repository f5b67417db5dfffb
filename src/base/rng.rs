//! The only source of randomness: a counter-based generator from a named seed.
//!
//! The i-th number is a hash of (seed, purpose, i), so two uses never share a stream and a draw
//! does not depend on how many others were made elsewhere.

/// A stream of random numbers that depends on its seed and purpose alone.
#[derive(Clone, Debug)]
pub struct Rng {
    key: u64,
    count: u64,
}

impl Rng {
    /// The stream of `seed` for `purpose` ("sample", "contexts").
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(&seed.to_le_bytes()).update(purpose.as_bytes());
        let mut word = [0; 8];
        hash.finalize_xof().fill(&mut word);
        Rng { key: u64::from_le_bytes(word), count: 0 }
    }

    /// 64 uniform bits: SplitMix64 (Steele, Lea, Flood 2014) of key + counter.
    pub fn bits(&mut self) -> u64 {
        self.count += 1;
        let mut z = self.key.wrapping_add(self.count.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The numbers from 0 to n, without n, in a random order (Fisher and Yates's shuffle).
    pub fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }

    /// A whole number from 0, below n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.uniform() * n as f64) as usize
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}
