//! The passes of attention, 8 positions at once; with AVX-512, [others](crate::kernels::avx512) take some of these.

use core::arch::x86_64::*;
use core::marker::PhantomData;

use super::sums::Sums;
use crate::attention::{BLOCK, CHANNELS, Passes, SUM_POSITIONS, mix_from};
use crate::kernels::Head;
use crate::numerics::ROUND;
use crate::numerics::exp_parts::{COEFFICIENTS, LEAST, LN2};

/// The passes, with sums of products by `S`.
pub(super) struct By<S>(PhantomData<S>);

impl<S: Sums> Passes for By<S> {
    #[inline(always)]
    fn scores(head: &Head<'_>, query: &[i8], scale: f32, scores: &mut [f32]) -> f32 {
        // SAFETY: only called from functions that have AVX2, as below.
        unsafe { key_products::<S>(head, query, scale, scores) }
    }

    #[inline(always)]
    fn weigh(scores: &mut [f32], most: f32, value_scales: &[u16]) -> (f32, f32) {
        unsafe {
            let none = (_mm256_setzero_ps(), _mm256_set1_ps(f32::NEG_INFINITY));
            let (sum, largest) = weigh(scores, most, value_scales, none);
            (tree(sum), largest_of(largest))
        }
    }

    #[inline(always)]
    fn integers(scores: &[f32], inverse: f32, weights: &mut [i16]) {
        unsafe { integers(scores, inverse, weights) }
    }

    #[inline(always)]
    fn mix(weights: &[i16], values: &[i8], channels: usize, out: &mut [f32]) {
        unsafe { value_products::<S>(weights, values, channels, out) }
    }
}

/// Keys are at most 127, so the signs may go to them, and what is done to the query is done once.
#[inline]
#[target_feature(enable = "avx2")]
fn key_products<S: Sums>(head: &Head<'_>, query: &[i8], scale: f32, scores: &mut [f32]) -> f32 {
    blocks(head, query, scale, scores, |block| {
        let mut total = _mm256_setzero_si256();
        for (cell, q) in block.as_chunks::<{ BLOCK * CHANNELS }>().0.iter().zip(query.as_chunks().0) {
            let q = _mm256_set1_epi32(i32::from_ne_bytes(q.map(|q: i8| q as u8)));
            // SAFETY: a cell has 32 bytes.
            let cell = unsafe { _mm256_loadu_si256(cell.as_ptr().cast()) };
            total = S::add_bytes(total, _mm256_abs_epi8(q), _mm256_sign_epi8(cell, q));
        }
        total
    })
}

/// [`Passes::scores`], given the products of a block.
#[inline(always)]
pub(in crate::kernels) fn blocks(
    head: &Head<'_>,
    query: &[i8],
    scale: f32,
    scores: &mut [f32],
    products: impl Fn(&[i8]) -> __m256i,
) -> f32 {
    // SAFETY: the caller has AVX2; 8 scales of 2 bytes, 8 scores of 4.
    unsafe {
        let scale = _mm256_set1_ps(scale);
        let mut largest = _mm256_set1_ps(f32::NEG_INFINITY);
        let keys = head.keys.chunks_exact(BLOCK * query.len().max(1));
        let outputs = scores.as_chunks_mut::<BLOCK>().0.iter_mut().zip(head.key_scales.as_chunks::<BLOCK>().0);
        for (first, (block, (scores, scales))) in (0..).step_by(BLOCK).zip(keys.zip(outputs)) {
            let sums = _mm256_cvtepi32_ps(products(block));
            let mut score = _mm256_mul_ps(_mm256_mul_ps(scale, from_bf16(scales)), sums);
            if first + BLOCK > head.seen {
                let numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let there = _mm256_set1_epi32(head.seen.saturating_sub(first) as i32);
                let there = _mm256_castsi256_ps(_mm256_cmpgt_epi32(there, numbers));
                score = _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), score, there);
            }
            _mm256_storeu_ps(scores.as_mut_ptr(), score);
            largest = _mm256_max_ps(score, largest);
        }
        largest_of(largest)
    }
}

/// [`Passes::weigh`], on top of a sum, as eight of it, and a largest score of what comes before.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn weigh(
    scores: &mut [f32],
    most: f32,
    value_scales: &[u16],
    (mut sum, mut largest): (__m256, __m256),
) -> (__m256, __m256) {
    let most = _mm256_set1_ps(most);
    let scales = value_scales.as_chunks::<BLOCK>().0;
    for (scores, scales) in scores.as_chunks_mut::<BLOCK>().0.iter_mut().zip(scales) {
        // SAFETY: 8 scores.
        let score = unsafe { _mm256_loadu_ps(scores.as_ptr()) };
        let e = exp(_mm256_sub_ps(score, most));
        sum = _mm256_add_ps(sum, e);
        let score = _mm256_mul_ps(e, from_bf16(scales));
        largest = _mm256_max_ps(score, largest);
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(scores.as_mut_ptr(), score) };
    }
    (sum, largest)
}

#[inline]
#[target_feature(enable = "avx2")]
fn integers(scores: &[f32], inverse: f32, weights: &mut [i16]) {
    let (inverse, round) = (_mm256_set1_ps(inverse), _mm256_set1_ps(ROUND));
    let scores = scores.as_chunks::<BLOCK>().0;
    for (weights, scores) in weights.as_chunks_mut::<BLOCK>().0.iter_mut().zip(scores) {
        // SAFETY: 8 scores, 8 weights.
        unsafe {
            let rounded = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(scores.as_ptr()), inverse), round);
            // The low halves: none is lost.
            let low = _mm256_and_si256(_mm256_castps_si256(rounded), _mm256_set1_epi32(0xFFFF));
            let (a, b) = (_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
            _mm_storeu_si128(weights.as_mut_ptr().cast(), _mm_packus_epi32(a, b));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn value_products<S: Sums>(weights: &[i16], values: &[i8], channels: usize, out: &mut [f32]) {
    mix(weights, values, channels, out, |total, value, weight| S::add_words(total, value, weight));
}

/// [`Passes::mix`], given how the products of pairs are added up.
#[inline(always)]
pub(in crate::kernels) fn mix(
    weights: &[i16],
    values: &[i8],
    channels: usize,
    out: &mut [f32],
    add: impl Fn(__m256i, __m256i, __m256i) -> __m256i,
) {
    const LANES: usize = 8;
    let whole = out.len().min(channels) / LANES * LANES;
    let blocks = weights.len().is_multiple_of(BLOCK);
    if whole == 0 || !blocks || values.len() < weights.len() * channels {
        return mix_from(0, weights, values, channels, out);
    }
    for from in (0..whole).step_by(LANES) {
        // SAFETY: the caller has AVX2; 2 weights are 4 bytes; of a pair's `channels`, 8 from `from` on are 16 bytes; 8 values.
        unsafe {
            let mut sum = _mm256_setzero_ps();
            let parts = weights.chunks(SUM_POSITIONS).zip(values.chunks(SUM_POSITIONS * channels));
            for (weights, values) in parts {
                // Four sums, so that one does not have to wait for another; as many pairs of positions at once.
                let mut totals = [_mm256_setzero_si256(); BLOCK / 2];
                for (w, pairs) in weights.chunks_exact(BLOCK).zip(values.chunks_exact(BLOCK * channels)) {
                    for (pair, total) in totals.iter_mut().enumerate() {
                        let v = _mm_loadu_si128(pairs.as_ptr().add(2 * (pair * channels + from)).cast());
                        let w = w.as_ptr().add(2 * pair).cast::<i32>().read_unaligned();
                        *total = add(*total, _mm256_cvtepi8_epi16(v), _mm256_set1_epi32(w));
                    }
                }
                let [a, b, c, d] = totals;
                let total = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
                sum = _mm256_add_ps(sum, _mm256_cvtepi32_ps(total));
            }
            if let Some(out) = out.get_mut(from..from + LANES) {
                _mm256_storeu_ps(out.as_mut_ptr(), sum);
            }
        }
    }
    mix_from(whole, weights, values, channels, out);
}

/// [`exp`](crate::numerics::exp) of each, none of which is above 0. Whatever those that are too low come to is cut off at the end.
#[inline]
#[target_feature(enable = "avx2")]
fn exp(x: __m256) -> __m256 {
    let (all, mul) = (|x| _mm256_set1_ps(x), |a, b| _mm256_mul_ps(a, b));
    let shifted = _mm256_add_ps(mul(x, all(core::f32::consts::LOG2_E)), all(ROUND));
    let n = _mm256_sub_ps(shifted, all(ROUND));
    let r = _mm256_sub_ps(_mm256_sub_ps(x, mul(n, all(LN2.0))), mul(n, all(LN2.1)));
    let mut p = all(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        p = _mm256_add_ps(mul(p, r), all(*coefficient));
    }
    // What `ROUND` has in its place is shifted out.
    let power = _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127));
    let e = mul(p, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(power)));
    _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, all(LEAST)), e)
}

#[inline]
#[target_feature(enable = "avx2")]
fn from_bf16(values: &[u16; BLOCK]) -> __m256 {
    // SAFETY: 8 of 2 bytes.
    let values = unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(values.as_ptr().cast())) };
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(values))
}

/// The tree that ends [`sum_of`](crate::numerics::sum_of).
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn tree(sums: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// The largest of eight.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn largest_of(values: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps::<1>(values));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}
