//! The two products of attention.

use core::arch::x86_64::*;

use super::Avx512;
use crate::attention::{BLOCK, CHANNELS, Products, SUM_POSITIONS, mix_from};

impl Products for Avx512 {
    #[inline(always)]
    fn scores(query: &[i8], scale: f32, keys: &[i8], key_scales: &[u16], scores: &mut [f32]) {
        // SAFETY: only called from functions that have what this one needs.
        unsafe { key_products(query, scale, keys, key_scales, scores) }
    }

    #[inline(always)]
    fn mix(weights: &[i16], values: &[i8], channels: usize, out: &mut [f32]) {
        // SAFETY: only called from functions that have what this one needs.
        unsafe { value_products(weights, values, channels, out) }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn key_products(query: &[i8], scale: f32, keys: &[i8], key_scales: &[u16], scores: &mut [f32]) {
    let scale = _mm256_set1_ps(scale);
    let flip = _mm256_set1_epi8(-128);
    // Keys go in as k + 128, like weights.
    let bias = query.iter().fold(0i32, |sum, q| sum + i32::from(*q)) * -128;
    let bias = _mm256_set1_epi32(bias);
    let outputs = scores.chunks_exact_mut(BLOCK).zip(key_scales.chunks_exact(BLOCK));
    for (block, (scores, scales)) in keys.chunks_exact(BLOCK * query.len().max(1)).zip(outputs) {
        let mut total = bias;
        for (cell, q) in block.chunks_exact(BLOCK * CHANNELS).zip(query.chunks_exact(CHANNELS)) {
            // SAFETY: a cell has 32 bytes, a chunk of the query 4.
            let (cell, q) = unsafe {
                (
                    _mm256_loadu_si256(cell.as_ptr().cast()),
                    _mm256_set1_epi32(q.as_ptr().cast::<i32>().read_unaligned()),
                )
            };
            total = _mm256_dpbusd_epi32(total, _mm256_xor_si256(cell, flip), q);
        }
        // SAFETY: 8 scales of 2 bytes, 8 scores of 4.
        unsafe {
            let scales = _mm256_cvtepu16_epi32(_mm_loadu_si128(scales.as_ptr().cast()));
            let scales = _mm256_castsi256_ps(_mm256_slli_epi32(scales, 16));
            let products = _mm256_mul_ps(_mm256_mul_ps(scale, scales), _mm256_cvtepi32_ps(total));
            _mm256_storeu_ps(scores.as_mut_ptr(), products);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn value_products(weights: &[i16], values: &[i8], channels: usize, out: &mut [f32]) {
    let whole = out.len().min(channels) / 8 * 8;
    if whole == 0 || values.len() < weights.len() * channels {
        return mix_from(0, weights, values, channels, out);
    }
    for from in (0..whole).step_by(8) {
        let mut sum = _mm256_setzero_ps();
        let parts = weights.chunks(SUM_POSITIONS).zip(values.chunks(SUM_POSITIONS * channels));
        for (weights, values) in parts {
            // Two sums, so that one does not have to wait for the other; two pairs of positions at once.
            let mut totals = [_mm256_setzero_si256(); 2];
            for (w, pairs) in weights.chunks_exact(4).zip(values.chunks_exact(4 * channels)) {
                for (half, total) in totals.iter_mut().enumerate() {
                    // SAFETY: 2 weights are 4 bytes; of a pair's `channels`, 8 from `from` on are 16 bytes.
                    let (w, v) = unsafe {
                        let pair = pairs.as_ptr().add(2 * (half * channels + from));
                        (
                            _mm256_set1_epi32(w.as_ptr().add(2 * half).cast::<i32>().read_unaligned()),
                            _mm_loadu_si128(pair.cast()),
                        )
                    };
                    *total = _mm256_dpwssd_epi32(*total, _mm256_cvtepi8_epi16(v), w);
                }
            }
            sum = _mm256_add_ps(sum, _mm256_cvtepi32_ps(_mm256_add_epi32(totals[0], totals[1])));
        }
        if let Some(out) = out.get_mut(from..from + 8) {
            // SAFETY: 8 values.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
        }
    }
    mix_from(whole, weights, values, channels, out);
}
