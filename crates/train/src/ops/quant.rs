//! The engine's int8 arithmetic, simulated in f32.
//!
//! Each function replaces values with the nearest that the engine can represent, so that a forward pass over them computes what the
//! engine will. The backward pass takes these roundings for the identity (the straight-through estimator, Bengio et al. 2013): nothing
//! clips, because every scale is as large as the largest value needs.

use pageformer_card::bf16;
use pageformer_card::matrix::TILE_INPUTS;

use crate::vector::{max_abs, vectorized};

vectorized! {
    /// Weights of a matrix (rows, cols): one bf16 scale for each 256 inputs of each row, rounded up.
    pub(crate) fn weights<'a>(w: &'a mut [f32], cols: usize) = round_weights;
}

vectorized! {
    /// Inputs of a matrix (n, cols): one f32 scale for each 256 channels of each row.
    pub(crate) fn activations<'a>(x: &'a mut [f32], cols: usize) = round_activations;
}

vectorized! {
    /// Queries, keys and values (n, row), of heads of `dim` channels: one scale for each head of each row; f32 for the first `queries`
    /// channels, bf16, rounded up, for the keys and values behind them, as they lie in the KV cache.
    pub(crate) fn queries_keys_values<'a>(
        qkv: &'a mut [f32],
        row: usize,
        queries: usize,
        dim: usize,
    ) = round_heads;
}

/// Largest magnitudes below this are taken for zero, as the engine does.
const TINY: f32 = 1e-30;

fn bf16_scale(largest: f32) -> f32 {
    bf16::to_f32(bf16::round_up(largest * (1.0 / 127.0)))
}

#[inline(always)]
fn round_weights(w: &mut [f32], cols: usize) {
    for w in w.chunks_exact_mut(cols).flat_map(|w| w.chunks_mut(TILE_INPUTS)) {
        let scale = bf16::to_f32(bf16::round_up(max_abs(w) / 127.0));
        if scale > 0.0 {
            // The exporter's rounding: halves away from zero.
            w.iter_mut().for_each(|w| *w = (*w / scale).round() * scale);
        }
    }
}

#[inline(always)]
fn round_activations(x: &mut [f32], cols: usize) {
    for x in x.chunks_exact_mut(cols).flat_map(|x| x.chunks_mut(TILE_INPUTS)) {
        round_to_f32_scale(x);
    }
}

#[inline(always)]
fn round_heads(qkv: &mut [f32], row: usize, queries: usize, dim: usize) {
    for x in qkv.chunks_exact_mut(row) {
        let (q, kv) = x.split_at_mut(queries);
        for q in q.chunks_exact_mut(dim) {
            round_to_f32_scale(q);
        }
        for x in kv.chunks_exact_mut(dim) {
            let largest = max_abs(x);
            let scale = if largest < TINY { 0.0 } else { bf16_scale(largest) };
            round_to(x, if scale > 0.0 { 1.0 / scale } else { 0.0 }, scale);
        }
    }
}

#[inline(always)]
fn round_to_f32_scale(x: &mut [f32]) {
    let largest = max_abs(x);
    if largest < TINY {
        x.fill(0.0);
    } else {
        round_to(x, 127.0 / largest, largest * (1.0 / 127.0));
    }
}

/// Rounds to multiples of `scale`, halves to even, as the engine does.
#[inline(always)]
fn round_to(x: &mut [f32], inverse: f32, scale: f32) {
    /// Adding it leaves the nearest integer in the low bits of the mantissa; taking it away, that integer.
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³
    x.iter_mut().for_each(|x| *x = ((*x * inverse + ROUND) - ROUND) * scale);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::random;

    #[test]
    fn weights_have_255_levels_and_a_bf16_scale_per_row_of_a_tile() {
        let original = random(1, 3 * 300);
        let mut w = original.clone();
        weights(&mut w, 300);
        for (row, rounded) in original.chunks(300).zip(w.chunks(300)) {
            for (x, y) in row.chunks(256).zip(rounded.chunks(256)) {
                let scale = bf16_scale(max_abs(x));
                assert_eq!(scale.to_bits() & 0xFFFF, 0);
                for (x, y) in x.iter().zip(y) {
                    let q = y / scale;
                    assert!((q - q.round()).abs() < 1e-4 && q.abs() <= 127.0);
                    assert!((x - y).abs() <= scale * 0.5001);
                }
            }
        }
    }

    #[test]
    fn zeros_stay_and_heads_have_their_own_scales() {
        let mut zeros = vec![0.0; 8];
        activations(&mut zeros, 8);
        assert_eq!(zeros, [0.0; 8]);

        // Two heads of 2 queries, one of keys, one of values.
        let mut x = vec![1.0, 0.5, 100.0, 50.0, 0.01, 0.005, 7.0, 0.0];
        let before = x.clone();
        queries_keys_values(&mut x, 8, 4, 2);
        for (a, b) in before.iter().zip(&x) {
            assert!((a - b).abs() <= a.abs() * 0.01, "{a} {b}");
        }
    }
}
