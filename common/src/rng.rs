//! Every random draw of a run comes from here.
//!
//! A stream is derived from (seed, purpose, member, round), so that no draw depends on how many others were made
//! before it, on threads or on processes. The device's own generator is process-global and never used.

use crate::id::Round;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, Gamma, StandardNormal};

/// A deterministic stream of draws.
#[derive(Debug, Clone)]
pub struct Stream(ChaCha12Rng);

/// The stream for one purpose of one member in one round; pass `""` and 0 where they do not apply.
///
/// ```
/// use tessera_common::rng;
/// let draw = |purpose| rng::stream(7, purpose, "client-01", 3).below(1000);
/// assert_eq!(draw("shuffle"), draw("shuffle"));
/// assert_ne!(draw("shuffle"), draw("dropout"));
/// ```
pub fn stream(seed: u64, purpose: &str, member: &str, round: Round) -> Stream {
    let mut hasher = blake3::Hasher::new_derive_key("tessera random stream v1");
    hasher.update(&seed.to_le_bytes());
    for text in [purpose, member] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.update(&round.to_le_bytes());
    Stream(ChaCha12Rng::from_seed(*hasher.finalize().as_bytes()))
}

impl Stream {
    /// Uniform integer below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // u64, not usize: the stream must not depend on the width of a pointer
        if bound == 0 { 0 } else { self.0.random_range(0..bound as u64) as usize }
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.0.random::<f64>()
    }

    /// Uniform in [low, high).
    pub fn uniform_f32(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.0.random::<f32>()
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    /// A point of the simplex, Dirichlet(alpha, ..., alpha) in `n` dimensions.
    pub fn dirichlet(&mut self, alpha: f64, n: usize) -> Vec<f64> {
        // Small shapes underflow to zero; a draw that is zero everywhere is made again.
        loop {
            let draws: Vec<f64> = match Gamma::new(alpha, 1.0) {
                Ok(gamma) => (0..n).map(|_| gamma.sample(&mut self.0)).collect(),
                Err(_) => vec![1.0; n],
            };
            let total: f64 = draws.iter().sum();
            if total > 0.0 && total.is_finite() {
                return draws.into_iter().map(|d| d / total).collect();
            }
        }
    }

    /// Fisher-Yates shuffle in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// `k` of `items` without replacement, in the order drawn; all of them if there are fewer.
    pub fn choose<T: Clone>(&mut self, items: &[T], k: usize) -> Vec<T> {
        let mut pool = items.to_vec();
        let k = k.min(pool.len());
        for i in 0..k {
            let j = i + self.below(pool.len() - i);
            pool.swap(i, j);
        }
        pool.truncate(k);
        pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Pins the streams: a change here silently changes every run of every user.
    #[test]
    fn streams_are_pinned() {
        let mut s = stream(0, "init", "", 0);
        let ints: Vec<usize> = (0..4).map(|_| s.below(1_000_000)).collect();
        let floats: Vec<f64> = vec![s.uniform(), s.normal()];
        assert_eq!(format!("{ints:?} {floats:?}"), include_str!("rng_pinned.txt").trim());
    }

    #[test]
    fn choosing_takes_distinct_items() {
        let mut s = stream(1, "select", "", 1);
        let mut picked = s.choose(&(0..30).collect::<Vec<_>>(), 9);
        picked.sort_unstable();
        picked.dedup();
        assert_eq!(picked.len(), 9);
        assert_eq!(s.choose(&[1, 2], 5).len(), 2);
    }
}
