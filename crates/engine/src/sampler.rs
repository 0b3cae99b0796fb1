//! From logits to a token.

use crate::numerics::{argmax, exp};

/// Chooses tokens: greedily at temperature 0, else at random with a seed. The same logits, settings and seed
/// give the same tokens on every target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Logits are divided by it; 0 is greedy.
    pub temperature: f32,
    /// Only the `top_k` most likely tokens (and those as likely as the last of them); 0 is all.
    pub top_k: u32,
    /// Only the smallest set of most likely tokens whose probability reaches this (Holtzman et al. 2020), with
    /// all that are as likely as its last; 1 is all.
    pub top_p: f32,
    state: u64,
}

impl Sampler {
    /// Always the most likely token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, state: 0 };

    /// At random.
    pub fn new(temperature: f32, top_k: u32, top_p: f32, seed: u64) -> Self {
        Self { temperature, top_k, top_p, state: seed }
    }

    /// Starts the random numbers anew.
    pub fn seed(&mut self, seed: u64) {
        self.state = seed;
    }

    /// Whether it always chooses the most likely token.
    pub fn is_greedy(&self) -> bool {
        self.temperature.is_nan() || self.temperature <= 0.0
    }

    /// Chooses a token. `logits` are finite; they are overwritten with weights unless greedy.
    pub fn choose(&mut self, logits: &mut [f32]) -> u16 {
        let best = argmax(logits);
        if self.is_greedy() {
            return best as u16;
        }
        let most = logits.get(best).copied().unwrap_or(0.0);
        for logit in logits.iter_mut() {
            *logit = exp((*logit - most) / self.temperature);
        }
        let weights = logits;
        // The best token has weight 1, so a threshold of at most 1 never leaves none.
        let mut threshold = 0.0f32;
        if self.top_k > 0 {
            threshold = largest(|t| weights.iter().filter(|w| **w >= t).count() >= self.top_k as usize);
        }
        if self.top_p < 1.0 {
            let sum_from = |t: f32| weights.iter().filter(|w| **w >= t).fold(0.0f32, |sum, w| sum + w);
            let wanted = self.top_p.max(0.0) * sum_from(threshold);
            let nucleus = largest(|t| sum_from(t) >= wanted);
            threshold = if nucleus > threshold { nucleus } else { threshold };
        }
        let total = weights.iter().filter(|w| **w >= threshold).fold(0.0f32, |sum, w| sum + w);
        let mut left = self.uniform() * total;
        let mut chosen = best;
        for (token, weight) in weights.iter().enumerate().filter(|(_, w)| **w >= threshold) {
            chosen = token;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        chosen as u16
    }

    /// Uniform in `[0, 1)`: SplitMix64 (Steele et al. 2014), its upper 24 bits.
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / 16_777_216.0
    }
}

/// The largest threshold in `[0, 1]` that `enough` holds for, 0 if it holds for none: found by halving the
/// interval of bit patterns, which order like the numbers. Sorting would need memory.
fn largest(enough: impl Fn(f32) -> bool) -> f32 {
    let (mut good, mut bad) = (0u32, 1f32.to_bits() + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        *(if enough(f32::from_bits(middle)) { &mut good } else { &mut bad }) = middle;
    }
    f32::from_bits(good)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// Draws many tokens and counts them.
    fn histogram(mut sampler: Sampler, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut counts = std::vec![0; logits.len()];
        for _ in 0..draws {
            counts[sampler.choose(&mut logits.to_vec()) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        assert_eq!(Sampler::GREEDY.clone().choose(&mut [1.0, 3.0, 3.0]), 1);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        // Weights 4 : 2 : 1 : 1.
        let logits = [4f32, 2.0, 1.0, 1.0].map(f32::ln);
        let counts = histogram(Sampler::new(1.0, 0, 1.0, 7), &logits, 80_000);
        for (count, want) in counts.iter().zip([40_000.0, 20_000.0, 10_000.0, 10_000.0]) {
            // Six standard deviations.
            assert!((*count as f64 - want).abs() < 6.0 * f64::sqrt(want), "{counts:?}");
        }
        // A temperature of ½ squares the weights: 16 : 4 : 1 : 1.
        let counts = histogram(Sampler::new(0.5, 0, 1.0, 7), &logits, 22_000);
        assert!((counts[0] as f64 - 16_000.0).abs() < 600.0, "{counts:?}");
    }

    #[test]
    fn top_k_and_top_p_leave_only_the_likely() {
        let logits = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln);
        let seen = |sampler| histogram(sampler, &logits, 2000).iter().map(|n| *n > 0).collect::<Vec<_>>();
        assert_eq!(seen(Sampler::new(1.0, 2, 1.0, 1)), [true, true, false, false]);
        assert_eq!(seen(Sampler::new(1.0, 0, 0.65, 1)), [true, true, false, false]);
        assert_eq!(seen(Sampler::new(1.0, 0, 0.75, 1)), [true, true, true, false]);
        assert_eq!(seen(Sampler::new(1.0, 0, 0.0, 1)), [true, false, false, false]);
        assert_eq!(seen(Sampler::new(1.0, 3, 0.5, 1)), [true, true, false, false]);
        assert_eq!(seen(Sampler::new(1.0, 100, 1.0, 1)), [true; 4]);
    }
}
