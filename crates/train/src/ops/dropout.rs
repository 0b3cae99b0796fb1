//! Dropout (Srivastava et al. 2014).

use crate::rng::Rng;

/// Zeroes each value with probability `rate` and scales the others up, so that the mean stays. The same `rng` gives the same mask: the
/// backward pass calls this again with the gradients.
pub(crate) fn apply(x: &mut [f32], rate: f32, mut rng: Rng) {
    let keep = 1.0 / (1.0 - rate);
    let threshold = (rate * 65_536.0) as u64;
    for x in x.chunks_mut(4) {
        let bits = rng.bits();
        for (i, x) in x.iter_mut().enumerate() {
            *x *= if (bits >> (16 * i)) & 0xFFFF < threshold { 0.0 } else { keep };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_the_asked_part_and_keeps_the_mean() {
        let mut x = vec![1.0; 40_001];
        apply(&mut x, 0.25, Rng::new(1, 1));
        let dropped = x.iter().filter(|v| **v == 0.0).count() as f32 / x.len() as f32;
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        assert!((dropped - 0.25).abs() < 0.01 && (mean - 1.0).abs() < 0.02);
        let mut again = vec![1.0; 40_001];
        apply(&mut again, 0.25, Rng::new(1, 1));
        assert_eq!(x, again);
    }
}
