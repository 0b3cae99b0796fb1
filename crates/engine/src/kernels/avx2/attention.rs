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
    const PAIRS: bool = true;

    #[inline(always)]
    fn scores<const N: usize>(
        head: &Head<'_>,
        queries: &[i8],
        scales: [f32; N],
        scores: &mut [f32],
    ) -> [f32; N] {
        // SAFETY: only called from functions that have AVX2, as below.
        unsafe { key_products::<S, N>(head, queries, scales, scores) }
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
        unsafe { value_products::<S, N>(weights, values, channels, width, out) }
    }
}

/// The blocks of each of `N` rows.
#[inline(always)]
pub(in crate::kernels) fn blocks_of<const N: usize, T>(rows: &[T]) -> [&[[T; BLOCK]]; N] {
    let mut rows = rows.chunks((rows.len() / N).max(1));
    core::array::from_fn(|_| rows.next().unwrap_or_default().as_chunks().0)
}

/// The same, to write to.
#[inline(always)]
pub(in crate::kernels) fn blocks_of_mut<const N: usize, T>(rows: &mut [T]) -> [&mut [[T; BLOCK]]; N] {
    let mut rows = rows.chunks_mut((rows.len() / N).max(1));
    core::array::from_fn(|_| rows.next().unwrap_or_default().as_chunks_mut().0)
}

/// Keys are at most 127, so the signs may go to them.
#[inline]
#[target_feature(enable = "avx2")]
fn key_products<S: Sums, const N: usize>(
    head: &Head<'_>,
    queries: &[i8],
    scales: [f32; N],
    scores: &mut [f32],
) -> [f32; N] {
    let query = cells_of::<N>(head, queries);
    let none = [_mm256_setzero_si256(); N];
    blocks(head, scales, scores, none, |totals, number, cell| {
        for (total, query) in totals.iter_mut().zip(query) {
            let q = query.get(number).map_or(_mm256_setzero_si256(), |q| eight_times(q));
            *total = S::add_bytes(*total, _mm256_abs_epi8(q), _mm256_sign_epi8(cell, q));
        }
    })
}

/// The queries, four channels at a time.
#[inline(always)]
pub(in crate::kernels) fn cells_of<'a, const N: usize>(
    head: &Head<'_>,
    queries: &'a [i8],
) -> [&'a [[i8; CHANNELS]]; N] {
    let mut rows = queries.chunks(head.channels.max(1));
    core::array::from_fn(|_| rows.next().unwrap_or_default().as_chunks().0)
}

/// Four channels, eight times.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn eight_times(channels: &[i8; CHANNELS]) -> __m256i {
    _mm256_set1_epi32(i32::from_ne_bytes(channels.map(|q| q as u8)))
}

/// [`Passes::scores`], given where the sums of a block begin and what adds the products of a cell of it.
#[inline(always)]
pub(in crate::kernels) fn blocks<const N: usize>(
    head: &Head<'_>,
    scales: [f32; N],
    scores: &mut [f32],
    start: [__m256i; N],
    add: impl Fn(&mut [__m256i; N], usize, __m256i),
) -> [f32; N] {
    // SAFETY: the caller has AVX2; a cell has 32 bytes; 8 scales of 2 bytes, 8 scores of 4.
    unsafe {
        let scales = scales.map(|scale| _mm256_set1_ps(scale));
        let mut largest = [_mm256_set1_ps(f32::NEG_INFINITY); N];
        let mut outputs = blocks_of_mut::<N, f32>(scores).map(|scores| scores.iter_mut());
        let (cells, _) = head.keys.as_chunks::<{ BLOCK * CHANNELS }>();
        let mut blocks = cells.chunks_exact((head.channels / CHANNELS).max(1));
        let key_scales = head.key_scales.as_chunks().0;
        for (first, (block, key_scales)) in (0..).step_by(BLOCK).zip(blocks.by_ref().zip(key_scales)) {
            let mut totals = start;
            for (number, cell) in block.iter().enumerate() {
                add(&mut totals, number, _mm256_loadu_si256(cell.as_ptr().cast()));
            }
            let key_scales = from_bf16(key_scales);
            let numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let seen = _mm256_set1_epi32(head.seen.saturating_sub(first).min(BLOCK) as i32);
            let seen = _mm256_castsi256_ps(_mm256_cmpgt_epi32(seen, numbers));
            let all = outputs.iter_mut().zip(totals).zip(scales).zip(&mut largest);
            for (((outputs, total), scale), largest) in all {
                let Some(output) = outputs.next() else { continue };
                let sums = _mm256_cvtepi32_ps(total);
                let mut score = _mm256_mul_ps(_mm256_mul_ps(scale, key_scales), sums);
                if first + BLOCK > head.seen {
                    score = _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), score, seen);
                }
                _mm256_storeu_ps(output.as_mut_ptr(), score);
                *largest = _mm256_max_ps(score, *largest);
            }
        }
        largest.map(|largest| largest_of(largest))
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn weigh<const N: usize>(scores: &mut [f32], most: [f32; N], value_scales: &[u16]) -> ([f32; N], [f32; N]) {
    let most = most.map(|most| _mm256_set1_ps(most));
    let mut sums = [_mm256_setzero_ps(); N];
    let mut largest = [_mm256_set1_ps(f32::NEG_INFINITY); N];
    let mut rows = blocks_of_mut::<N, f32>(scores).map(|scores| scores.iter_mut());
    for scales in value_scales.as_chunks().0 {
        let scales = from_bf16(scales);
        let all = rows.iter_mut().zip(most).zip(sums.iter_mut().zip(&mut largest));
        for ((row, most), (sum, largest)) in all {
            let Some(scores) = row.next() else { continue };
            weigh_block(scores, most, scales, sum, largest);
        }
    }
    (sums.map(|sum| tree(sum)), largest.map(|largest| largest_of(largest)))
}

/// Eight scores of [`Passes::weigh`].
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn weigh_block(
    scores: &mut [f32; BLOCK],
    most: __m256,
    scales: __m256,
    sum: &mut __m256,
    largest: &mut __m256,
) {
    // SAFETY: 8 scores.
    let e = exp(_mm256_sub_ps(unsafe { _mm256_loadu_ps(scores.as_ptr()) }, most));
    *sum = _mm256_add_ps(*sum, e);
    let score = _mm256_mul_ps(e, scales);
    *largest = _mm256_max_ps(score, *largest);
    // SAFETY: as above.
    unsafe { _mm256_storeu_ps(scores.as_mut_ptr(), score) };
}

#[inline]
#[target_feature(enable = "avx2")]
fn integers<const N: usize>(scores: &[f32], inverses: [f32; N], weights: &mut [i16]) {
    let rows = blocks_of::<N, f32>(scores).into_iter().zip(blocks_of_mut::<N, i16>(weights));
    for ((scores, weights), inverse) in rows.zip(inverses) {
        let (inverse, round) = (_mm256_set1_ps(inverse), _mm256_set1_ps(ROUND));
        for (weights, scores) in weights.iter_mut().zip(scores) {
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
}

#[inline]
#[target_feature(enable = "avx2")]
fn value_products<S: Sums, const N: usize>(
    weights: &[i16],
    values: &[i8],
    channels: usize,
    width: usize,
    out: &mut [f32],
) {
    mix::<N>(weights, values, channels, width, out, |total, value, weight| {
        S::add_words(total, value, weight)
    });
}

/// [`Passes::mix`], given how the products of pairs are added up.
#[inline(always)]
pub(in crate::kernels) fn mix<const N: usize>(
    weights: &[i16],
    values: &[i8],
    channels: usize,
    width: usize,
    out: &mut [f32],
    add: impl Fn(__m256i, __m256i, __m256i) -> __m256i,
) {
    const LANES: usize = 8;
    let places = weights.len() / N;
    let whole = width.min(channels) / LANES * LANES;
    let fits = places.is_multiple_of(BLOCK) && values.len() >= places * channels && out.len() >= N * width;
    if whole == 0 || !fits {
        return mix_from::<N>(0, weights, values, channels, width, out);
    }
    let weights_of = blocks_of::<N, i16>(weights);
    for from in (0..whole).step_by(LANES) {
        // SAFETY: the caller has AVX2; 2 weights are 4 bytes; of a pair's `channels`, 8 from `from` on are 16 bytes; 8 values.
        unsafe {
            let mut sums = [_mm256_setzero_ps(); N];
            for first in (0..places / BLOCK).step_by(SUM_POSITIONS / BLOCK) {
                // Four sums, so that one does not have to wait for another; as many pairs of positions at once.
                let mut totals = [[_mm256_setzero_si256(); BLOCK / 2]; N];
                for block in first..(first + SUM_POSITIONS / BLOCK).min(places / BLOCK) {
                    let pairs = values.as_ptr().add(block * BLOCK * channels + 2 * from);
                    for pair in 0..BLOCK / 2 {
                        let v = _mm256_cvtepi8_epi16(_mm_loadu_si128(pairs.add(2 * pair * channels).cast()));
                        for (totals, weights) in totals.iter_mut().zip(weights_of) {
                            let w = weights.as_ptr().add(block).cast::<i32>().add(pair).read_unaligned();
                            totals[pair] = add(totals[pair], v, _mm256_set1_epi32(w));
                        }
                    }
                }
                for (sum, [a, b, c, d]) in sums.iter_mut().zip(totals) {
                    let total = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
                    *sum = _mm256_add_ps(*sum, _mm256_cvtepi32_ps(total));
                }
            }
            for (out, sum) in out.chunks_mut(width).zip(sums) {
                _mm256_storeu_ps(out.as_mut_ptr().add(from), sum);
            }
        }
    }
    if whole < width {
        mix_from::<N>(whole, weights, values, channels, width, out);
    }
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
pub(in crate::kernels) fn from_bf16(values: &[u16; BLOCK]) -> __m256 {
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
