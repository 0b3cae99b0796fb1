//! The passes of attention, 16 positions or channels at once; what is left over is done [as by AVX2](crate::kernels::avx2::attention).

use core::arch::x86_64::*;

use super::Avx512;
use crate::attention::{BLOCK, CHANNELS, Passes, mix_from};
use crate::kernels::Head;
use crate::kernels::avx2::attention::{
    Cell, Channels, Eight, blocks, blocks_of, blocks_of_mut, cells_of, eight_times, from_bf16, keys_of,
    largest_of, mix, tree, weigh_block,
};
use crate::kernels::avx2::sums::Sums;
use crate::numerics::ROUND;
use crate::numerics::exp_parts::{COEFFICIENTS, LEAST, LN2};

/// Positions of a register.
const LANES: usize = 2 * BLOCK;

impl Passes for Avx512 {
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
    fn mix<const N: usize>(weights: &[i16], values: &[i8], channels: usize, out: &mut [f32]) {
        unsafe { value_products::<N>(weights, values, channels, out) }
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
    let query = cells_of::<N>(queries);
    // Keys go in as k + 128, like weights.
    let flip = _mm256_set1_epi8(-128);
    let bias = query.map(|query| {
        let add = |total, q: &[i8; CHANNELS]| Avx512::add_bytes(total, flip, eight_times(q));
        _mm256_sub_epi32(_mm256_setzero_si256(), query.iter().fold(_mm256_setzero_si256(), add))
    });
    let sums = |block: &[Cell]| {
        let mut totals = bias;
        for (number, cell) in block.iter().enumerate() {
            // SAFETY: 32 bytes.
            let cell = _mm256_xor_si256(unsafe { _mm256_loadu_si256(cell.as_ptr().cast()) }, flip);
            for (total, query) in totals.iter_mut().zip(query) {
                let q = query.get(number).map_or(_mm256_setzero_si256(), |q| eight_times(q));
                *total = Avx512::add_bytes(*total, cell, q);
            }
        }
        totals
    };

    // Two blocks at once, as long as all of both are seen.
    let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); N];
    let pairs = head.seen / LANES;
    let mut keys = keys_of(head);
    let mut outputs = blocks_of_mut::<N, f32>(scores).map(|row| row.as_chunks_mut::<2>().0);
    for (pair, key_scales) in head.key_scales.as_chunks().0.iter().enumerate().take(pairs) {
        let (Some(low), Some(high)) = (keys.next(), keys.next()) else { break };
        let key_scales = from_bf16_pair(key_scales);
        let all = outputs.iter_mut().zip(sums(low).into_iter().zip(sums(high))).zip(scales).zip(&mut largest);
        for (((outputs, (low, high)), scale), largest) in all {
            let Some(output) = outputs.get_mut(pair) else { continue };
            let sums = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
            let scales = _mm512_mul_ps(_mm512_set1_ps(scale), key_scales);
            let score = _mm512_mul_ps(scales, _mm512_cvtepi32_ps(sums));
            // SAFETY: 16 scores.
            unsafe { _mm512_storeu_ps(output.as_mut_ptr().cast(), score) };
            *largest = _mm512_max_ps(score, *largest);
        }
    }
    let mut largest = largest.map(|largest| larger_half(largest));
    blocks(2 * pairs, head, scales, scores, &mut largest, sums);
    largest.map(|largest| largest_of(largest))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn weigh<const N: usize>(scores: &mut [f32], most: [f32; N], value_scales: &[u16]) -> ([f32; N], [f32; N]) {
    let all_most = most.map(|most| _mm512_set1_ps(most));
    let mut sums = [_mm256_setzero_ps(); N];
    let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); N];
    let mut rows = blocks_of_mut::<N, f32>(scores).map(|row| row.as_chunks_mut::<2>());
    let (scales, last_scales) = value_scales.as_chunks();
    for (pair, scales) in scales.iter().enumerate() {
        let scales = from_bf16_pair(scales);
        let all = rows.iter_mut().zip(all_most).zip(sums.iter_mut().zip(&mut largest));
        for (((row, _), most), (sum, largest)) in all {
            let Some(scores) = row.get_mut(pair) else { continue };
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
    let mut largest = largest.map(|largest| larger_half(largest));
    let all = rows.into_iter().zip(most).zip(sums.iter_mut().zip(&mut largest));
    for (((_, last), most), (sum, largest)) in all {
        for (scores, scales) in last.iter_mut().zip(last_scales.as_chunks().0) {
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
        let (inverse, round) = (_mm512_set1_ps(inverse), _mm512_set1_ps(ROUND));
        let rounded = |scores| {
            let rounded = _mm512_add_ps(_mm512_mul_ps(scores, inverse), round);
            // The low halves.
            _mm512_cvtepi32_epi16(_mm512_castps_si512(rounded))
        };
        let ((scores, last_scores), (weights, last_weights)) =
            (scores.as_chunks::<2>(), weights.as_chunks_mut::<2>());
        for (weights, scores) in weights.iter_mut().zip(scores) {
            // SAFETY: 16 scores, 16 weights.
            unsafe {
                let integers = rounded(_mm512_loadu_ps(scores.as_ptr().cast()));
                _mm256_storeu_si256(weights.as_flattened_mut().as_mut_ptr().cast(), integers);
            }
        }
        for (weights, scores) in last_weights.iter_mut().zip(last_scores) {
            // SAFETY: 8 scores, 8 weights.
            unsafe {
                let integers = rounded(_mm512_castps256_ps512(_mm256_loadu_ps(scores.as_ptr())));
                _mm_storeu_si128(weights.as_mut_ptr().cast(), _mm256_castsi256_si128(integers));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn value_products<const N: usize>(weights: &[i16], values: &[i8], channels: usize, out: &mut [f32]) {
    let next = mix::<Sixteen, N>(0, weights, values, channels, out);
    let next = mix::<Eight<Avx512>, N>(next, weights, values, channels, out);
    mix_from::<N>(next, weights, values, channels, out);
}

/// Sixteen channels.
struct Sixteen;

impl Channels for Sixteen {
    const LANES: usize = 16;
    type Register = __m512i;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: the caller's word, as below.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn load(values: *const i8) -> __m512i {
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(values.cast())) }
    }

    #[inline(always)]
    unsafe fn add(total: __m512i, values: __m512i, weights: i32) -> __m512i {
        unsafe { _mm512_dpwssd_epi32(total, values, _mm512_set1_epi32(weights)) }
    }

    #[inline(always)]
    unsafe fn finish([a, b, c, d]: [__m512i; BLOCK / 2], first: bool, out: *mut f32) {
        unsafe {
            let total = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d));
            let before = if first { _mm512_setzero_ps() } else { _mm512_loadu_ps(out) };
            _mm512_storeu_ps(out, _mm512_add_ps(before, _mm512_cvtepi32_ps(total)));
        }
    }
}

impl Sums for Avx512 {
    #[cfg(feature = "prepack")]
    const ANY: bool = true;

    #[inline(always)]
    fn add_bytes(total: __m256i, magnitude: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: only called from functions that have AVX-512 and its VNNI, as below.
        unsafe { _mm256_dpbusd_epi32(total, magnitude, signed) }
    }

    #[inline(always)]
    fn add_words(total: __m256i, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_dpwssd_epi32(total, a, b) }
    }
}

/// The larger of each two that are eight apart.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn larger_half(values: __m512) -> __m256 {
    _mm256_max_ps(_mm512_castps512_ps256(values), _mm512_extractf32x8_ps::<1>(values))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn from_bf16_pair(values: &[u16; LANES]) -> __m512 {
    // SAFETY: 16 of 2 bytes.
    let values = unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(values.as_ptr().cast())) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(values))
}

/// [`exp`](crate::numerics::exp) of each, none of which is above 0. Whatever those that are too low come to is cut off at the end.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp(x: __m512) -> __m512 {
    let (all, mul) = (|x| _mm512_set1_ps(x), |a, b| _mm512_mul_ps(a, b));
    let shifted = _mm512_add_ps(mul(x, all(core::f32::consts::LOG2_E)), all(ROUND));
    let n = _mm512_sub_ps(shifted, all(ROUND));
    // The first product is exact, so that only the difference is rounded.
    let r = _mm512_sub_ps(_mm512_fnmadd_ps(n, all(LN2.0), x), mul(n, all(LN2.1)));
    let mut p = all(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        p = _mm512_add_ps(mul(p, r), all(*coefficient));
    }
    let there = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, all(LEAST));
    // p · 2ⁿ, which is not subnormal.
    _mm512_maskz_scalef_ps(there, p, n)
}
