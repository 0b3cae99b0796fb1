//! The passes of attention; what 16 positions at once do not make faster is [AVX2's](crate::kernels::avx2::attention).

use core::arch::x86_64::*;

use super::Avx512;
use crate::attention::{BLOCK, CHANNELS, Passes};
use crate::kernels::Head;
use crate::kernels::avx2::attention::{self, blocks, largest_of, tree};
use crate::numerics::ROUND;
use crate::numerics::exp_parts::{COEFFICIENTS, LEAST, LN2};

/// Positions of a register.
const LANES: usize = 2 * BLOCK;

impl Passes for Avx512 {
    #[inline(always)]
    fn scores(head: &Head<'_>, query: &[i8], scale: f32, scores: &mut [f32]) -> f32 {
        // SAFETY: only called from functions that have what this one needs, as below.
        unsafe { key_products(head, query, scale, scores) }
    }

    #[inline(always)]
    fn weigh(scores: &mut [f32], most: f32, value_scales: &[u16]) -> (f32, f32) {
        unsafe { weigh(scores, most, value_scales) }
    }

    #[inline(always)]
    fn integers(scores: &[f32], inverse: f32, weights: &mut [i16]) {
        unsafe { integers(scores, inverse, weights) }
    }

    #[inline(always)]
    fn mix(weights: &[i16], values: &[i8], channels: usize, out: &mut [f32]) {
        unsafe { value_products(weights, values, channels, out) }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn key_products(head: &Head<'_>, query: &[i8], scale: f32, scores: &mut [f32]) -> f32 {
    let flip = _mm256_set1_epi8(-128);
    let add = |total, cell: __m256i, q: &[i8; CHANNELS]| {
        _mm256_dpbusd_epi32(total, cell, _mm256_set1_epi32(i32::from_ne_bytes(q.map(|q| q as u8))))
    };
    // Keys go in as k + 128, like weights.
    let (query_cells, _) = query.as_chunks();
    let too_much = query_cells.iter().fold(_mm256_setzero_si256(), |total, q| add(total, flip, q));
    let bias = _mm256_sub_epi32(_mm256_setzero_si256(), too_much);
    blocks(head, query, scale, scores, |block| {
        let mut total = bias;
        for (cell, q) in block.as_chunks::<{ BLOCK * CHANNELS }>().0.iter().zip(query_cells) {
            // SAFETY: a cell has 32 bytes.
            let cell = unsafe { _mm256_loadu_si256(cell.as_ptr().cast()) };
            total = add(total, _mm256_xor_si256(cell, flip), q);
        }
        total
    })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn weigh(scores: &mut [f32], most: f32, value_scales: &[u16]) -> (f32, f32) {
    let (mut sum, mut largest) = (_mm256_setzero_ps(), _mm512_set1_ps(f32::NEG_INFINITY));
    let all = _mm512_set1_ps(most);
    let (scores, last_scores) = scores.as_chunks_mut::<LANES>();
    let (scales, last_scales) = value_scales.as_chunks::<LANES>();
    for (scores, scales) in scores.iter_mut().zip(scales) {
        // SAFETY: 16 scores, 16 scales of 2 bytes.
        let (score, scales) =
            unsafe { (_mm512_loadu_ps(scores.as_ptr()), _mm256_loadu_si256(scales.as_ptr().cast())) };
        let e = exp(_mm512_sub_ps(score, all));
        // In the order of eights.
        sum = _mm256_add_ps(sum, _mm512_castps512_ps256(e));
        sum = _mm256_add_ps(sum, _mm512_extractf32x8_ps::<1>(e));
        let scales = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(scales)));
        let score = _mm512_mul_ps(e, scales);
        largest = _mm512_max_ps(score, largest);
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(scores.as_mut_ptr(), score) };
    }
    let largest = _mm256_max_ps(_mm512_castps512_ps256(largest), _mm512_extractf32x8_ps::<1>(largest));
    let (sum, largest) = attention::weigh(last_scores, most, last_scales, (sum, largest));
    (tree(sum), largest_of(largest))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn integers(scores: &[f32], inverse: f32, weights: &mut [i16]) {
    let (inverse, round) = (_mm256_set1_ps(inverse), _mm256_set1_ps(ROUND));
    let scores = scores.as_chunks::<BLOCK>().0;
    for (weights, scores) in weights.as_chunks_mut::<BLOCK>().0.iter_mut().zip(scores) {
        // SAFETY: 8 scores, 8 weights.
        unsafe {
            let rounded = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(scores.as_ptr()), inverse), round);
            let low = _mm256_cvtepi32_epi16(_mm256_castps_si256(rounded));
            _mm_storeu_si128(weights.as_mut_ptr().cast(), low);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn value_products(weights: &[i16], values: &[i8], channels: usize, out: &mut [f32]) {
    attention::mix(weights, values, channels, out, |total, value, weight| {
        _mm256_dpwssd_epi32(total, value, weight)
    });
}

/// [`exp`](crate::numerics::exp) of each, none of which is above 0. Whatever those that are too low come to is cut off at the end.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp(x: __m512) -> __m512 {
    let (all, mul) = (|x| _mm512_set1_ps(x), |a, b| _mm512_mul_ps(a, b));
    let shifted = _mm512_add_ps(mul(x, all(core::f32::consts::LOG2_E)), all(ROUND));
    let n = _mm512_sub_ps(shifted, all(ROUND));
    let r = _mm512_sub_ps(_mm512_sub_ps(x, mul(n, all(LN2.0))), mul(n, all(LN2.1)));
    let mut p = all(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        p = _mm512_add_ps(mul(p, r), all(*coefficient));
    }
    // What `ROUND` has in its place is shifted out.
    let power = _mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127));
    let power = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(power));
    let there = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, all(LEAST));
    _mm512_maskz_mul_ps(there, p, power)
}
