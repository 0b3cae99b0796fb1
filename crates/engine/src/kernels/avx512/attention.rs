//! The passes of attention; what 16 positions at once do not make faster is [AVX2's](crate::kernels::avx2::attention).

use core::arch::x86_64::*;

use super::Avx512;
use crate::attention::{BLOCK, CHANNELS, Passes};
use crate::kernels::Head;
use crate::kernels::avx2::attention::{
    blocks, blocks_of, blocks_of_mut, cells_of, eight_times, from_bf16, largest_of, mix, tree, weigh_block,
};
use crate::numerics::ROUND;
use crate::numerics::exp_parts::{COEFFICIENTS, LEAST, LN2};

impl Passes for Avx512 {
    const PAIRS: bool = true;

    #[inline(always)]
    fn scores<const N: usize>(
        head: &Head<'_>,
        queries: &[i8],
        scales: [f32; N],
        scores: &mut [f32],
    ) -> [f32; N] {
        // SAFETY: only called from functions that have what this one needs, as below.
        unsafe { key_products(head, queries, scales, scores) }
    }

    #[inline(always)]
    fn weigh<const N: usize>(
        scores: &mut [f32],
        most: [f32; N],
        value_scales: &[u16],
    ) -> ([f32; N], [f32; N]) {
        unsafe { weigh(scores, most, value_scales) }
    }

    #[inline(always)]
    fn integers<const N: usize>(scores: &[f32], inverses: [f32; N], weights: &mut [i16]) {
        unsafe { integers(scores, inverses, weights) }
    }

    #[inline(always)]
    fn mix<const N: usize>(weights: &[i16], values: &[i8], channels: usize, width: usize, out: &mut [f32]) {
        unsafe { value_products::<N>(weights, values, channels, width, out) }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn key_products<const N: usize>(
    head: &Head<'_>,
    queries: &[i8],
    scales: [f32; N],
    scores: &mut [f32],
) -> [f32; N] {
    let query = cells_of::<N>(head, queries);
    // Keys go in as k + 128, like weights.
    let flip = _mm256_set1_epi8(-128);
    let bias = query.map(|query| {
        let add = |total, q: &[i8; CHANNELS]| _mm256_dpbusd_epi32(total, flip, eight_times(q));
        _mm256_sub_epi32(_mm256_setzero_si256(), query.iter().fold(_mm256_setzero_si256(), add))
    });
    blocks(head, scales, scores, bias, |totals, number, cell| {
        let cell = _mm256_xor_si256(cell, flip);
        for (total, query) in totals.iter_mut().zip(query) {
            let q = query.get(number).map_or(_mm256_setzero_si256(), |q| eight_times(q));
            *total = _mm256_dpbusd_epi32(*total, cell, q);
        }
    })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn weigh<const N: usize>(scores: &mut [f32], most: [f32; N], value_scales: &[u16]) -> ([f32; N], [f32; N]) {
    let all_most = most.map(|most| _mm512_set1_ps(most));
    let mut sums = [_mm256_setzero_ps(); N];
    let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); N];
    let mut rows = blocks_of_mut::<N, f32>(scores).map(|row| row.as_chunks_mut::<2>());
    let (scales, last_scales) = value_scales.as_chunks::<BLOCK>().0.as_chunks::<2>();
    for (number, scales) in scales.iter().enumerate() {
        // SAFETY: 16 scales of 2 bytes.
        let scales = unsafe { _mm256_loadu_si256(scales.as_ptr().cast()) };
        let scales = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(scales)));
        let all = rows.iter_mut().zip(all_most).zip(sums.iter_mut().zip(&mut largest));
        for (((row, _), most), (sum, largest)) in all {
            let Some(scores) = row.get_mut(number) else { continue };
            // SAFETY: 16 scores.
            let e = exp(_mm512_sub_ps(unsafe { _mm512_loadu_ps(scores.as_ptr().cast()) }, most));
            // In the order of eights.
            *sum = _mm256_add_ps(*sum, _mm512_castps512_ps256(e));
            *sum = _mm256_add_ps(*sum, _mm512_extractf32x8_ps::<1>(e));
            let score = _mm512_mul_ps(e, scales);
            *largest = _mm512_max_ps(score, *largest);
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(scores.as_mut_ptr().cast(), score) };
        }
    }
    let mut largest = largest
        .map(|largest| _mm256_max_ps(_mm512_castps512_ps256(largest), _mm512_extractf32x8_ps::<1>(largest)));
    let all = rows.into_iter().zip(most).zip(sums.iter_mut().zip(&mut largest));
    for (((_, last), most), (sum, largest)) in all {
        for (scores, scales) in last.iter_mut().zip(last_scales) {
            weigh_block(scores, _mm256_set1_ps(most), from_bf16(scales), sum, largest);
        }
    }
    (sums.map(|sum| tree(sum)), largest.map(|largest| largest_of(largest)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn integers<const N: usize>(scores: &[f32], inverses: [f32; N], weights: &mut [i16]) {
    let rows = blocks_of::<N, f32>(scores).into_iter().zip(blocks_of_mut::<N, i16>(weights));
    for ((scores, weights), inverse) in rows.zip(inverses) {
        let (inverse, round) = (_mm256_set1_ps(inverse), _mm256_set1_ps(ROUND));
        for (weights, scores) in weights.iter_mut().zip(scores) {
            // SAFETY: 8 scores, 8 weights.
            unsafe {
                let rounded = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(scores.as_ptr()), inverse), round);
                let low = _mm256_cvtepi32_epi16(_mm256_castps_si256(rounded));
                _mm_storeu_si128(weights.as_mut_ptr().cast(), low);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn value_products<const N: usize>(
    weights: &[i16],
    values: &[i8],
    channels: usize,
    width: usize,
    out: &mut [f32],
) {
    mix::<N>(weights, values, channels, width, out, |total, value, weight| {
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
