//! The passes of attention, 8 positions at once; with AVX-512, [others](crate::kernels::avx512) take some of these.

use core::arch::x86_64::*;
use core::marker::PhantomData;

use super::sums::Sums;
use crate::attention::{self, BLOCK, CHANNELS, Passes, SUM_POSITIONS, mix_from};
use crate::kernels::Head;
use crate::numerics::ROUND;
use crate::numerics::exp_parts::{COEFFICIENTS, LEAST, LN2};

/// The passes, with sums of products by `S`.
pub(super) struct By<S>(PhantomData<S>);

impl<S: Sums> Passes for By<S> {
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
    fn mix<const N: usize>(weights: &[i16], values: &[i8], channels: usize, out: &mut [f32]) {
        unsafe { value_products::<S, N>(weights, values, channels, out) }
    }
}

/// The blocks of each of `N` rows.
#[inline(always)]
pub(in crate::kernels) fn blocks_of<const N: usize, T>(rows: &[T]) -> [&[[T; BLOCK]]; N] {
    attention::rows(rows).map(|row| row.as_chunks().0)
}

/// The same, to write to.
#[inline(always)]
pub(in crate::kernels) fn blocks_of_mut<const N: usize, T>(rows: &mut [T]) -> [&mut [[T; BLOCK]]; N] {
    attention::rows_mut(rows).map(|row| row.as_chunks_mut().0)
}

/// The magnitudes of keys serve all queries; queries get their signs.
#[inline]
#[target_feature(enable = "avx2")]
fn key_products<S: Sums, const N: usize>(
    head: &Head<'_>,
    queries: &[i8],
    scales: [f32; N],
    scores: &mut [f32],
) -> [f32; N] {
    let query = cells_of::<N>(queries);
    let cells = query.iter().map(|query| query.len()).fold(head.channels / CHANNELS, usize::min);
    let mut largest = [_mm256_set1_ps(f32::NEG_INFINITY); N];
    let add = |totals: &mut [__m256i; N], cell: &Cell, query: [__m256i; N]| {
        // SAFETY: 32 bytes.
        let cell = unsafe { _mm256_loadu_si256(cell.as_ptr().cast()) };
        let magnitudes = _mm256_abs_epi8(cell);
        for (total, query) in totals.iter_mut().zip(query) {
            *total = S::add_bytes(*total, magnitudes, _mm256_sign_epi8(query, cell));
        }
    };
    if cells == 2 && head.channels == 2 * CHANNELS {
        // These stay in registers.
        // SAFETY: each query has two.
        let [first, second] =
            [0, 1].map(|number| query.map(|query| eight_times(unsafe { query.get_unchecked(number) })));
        blocks(0, head, scales, scores, &mut largest, |block| {
            let mut totals = [_mm256_setzero_si256(); N];
            if let [a, b] = block {
                add(&mut totals, a, first);
                add(&mut totals, b, second);
            }
            totals
        });
    } else {
        blocks(0, head, scales, scores, &mut largest, |block| {
            let mut totals = [_mm256_setzero_si256(); N];
            for (number, cell) in block.iter().enumerate().take(cells) {
                // SAFETY: each query has so many.
                let query = query.map(|query| eight_times(unsafe { query.get_unchecked(number) }));
                add(&mut totals, cell, query);
            }
            totals
        });
    }
    largest.map(|largest| largest_of(largest))
}

/// Keys of eight positions, four channels of each.
pub(in crate::kernels) type Cell = [i8; BLOCK * CHANNELS];

/// The keys, block by block.
#[inline(always)]
pub(in crate::kernels) fn keys_of<'a>(head: &Head<'a>) -> core::slice::ChunksExact<'a, Cell> {
    head.keys.as_chunks().0.chunks_exact((head.channels / CHANNELS).max(1))
}

/// The queries, four channels at a time.
#[inline(always)]
pub(in crate::kernels) fn cells_of<const N: usize>(queries: &[i8]) -> [&[[i8; CHANNELS]]; N] {
    attention::rows(queries).map(|query| query.as_chunks().0)
}

/// Four channels, eight times.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn eight_times(channels: &[i8; CHANNELS]) -> __m256i {
    _mm256_set1_epi32(i32::from_ne_bytes(channels.map(|q| q as u8)))
}

/// [`Passes::scores`] from block `from` on, given what the products of a block add up to. `largest` may be known from what comes before.
#[inline(always)]
pub(in crate::kernels) fn blocks<const N: usize>(
    from: usize,
    head: &Head<'_>,
    scales: [f32; N],
    scores: &mut [f32],
    largest: &mut [__m256; N],
    sums: impl Fn(&[Cell]) -> [__m256i; N],
) {
    let cells = (head.channels / CHANNELS).max(1);
    let (keys, key_scales) = (head.keys.as_chunks().0, head.key_scales.as_chunks().0);
    let outputs = blocks_of_mut::<N, f32>(scores);
    let all = outputs.iter().map(|row| row.len()).fold(key_scales.len().min(keys.len() / cells), usize::min);
    // SAFETY: the caller has AVX2. There are so many blocks of keys, of their scales and of each row's scores. Iterators over all of these, and there is
    // hardly a register left for what they know.
    unsafe {
        let scales = scales.map(|scale| _mm256_set1_ps(scale));
        let numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        for number in from..all {
            let key_scales = from_bf16(key_scales.get_unchecked(number));
            let sums = sums(keys.get_unchecked(number * cells..(number + 1) * cells));
            for query in 0..N {
                let scales = _mm256_mul_ps(scales[query], key_scales);
                let mut score = _mm256_mul_ps(scales, _mm256_cvtepi32_ps(sums[query]));
                if (number + 1) * BLOCK > head.seen {
                    let seen = _mm256_set1_epi32(head.seen.saturating_sub(number * BLOCK) as i32);
                    let seen = _mm256_castsi256_ps(_mm256_cmpgt_epi32(seen, numbers));
                    score = _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), score, seen);
                }
                _mm256_storeu_ps(outputs[query].get_unchecked_mut(number).as_mut_ptr(), score);
                largest[query] = _mm256_max_ps(score, largest[query]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn weigh<const N: usize>(scores: &mut [f32], most: [f32; N], value_scales: &[u16]) -> ([f32; N], [f32; N]) {
    let mut so_far = Weighed {
        most: most.map(|most| _mm256_set1_ps(most)),
        sums: [_mm256_setzero_ps(); N],
        largest: [_mm256_set1_ps(f32::NEG_INFINITY); N],
    };
    let (mut rows, scales) = (blocks_of_mut::<N, f32>(scores), value_scales.as_chunks().0);
    let blocks = rows.iter().map(|row| row.len()).fold(scales.len(), usize::min);
    let mut next = 0;
    // SAFETY: every row has these blocks.
    unsafe {
        // Eight exponentials, though there are registers for four.
        if N == 1 {
            while next + 8 <= blocks {
                so_far.add::<8>(&mut rows, scales, next);
                next += 8;
            }
        }
        while next + 4 <= blocks {
            so_far.add::<4>(&mut rows, scales, next);
            next += 4;
        }
        if next + 2 <= blocks {
            so_far.add::<2>(&mut rows, scales, next);
            next += 2;
        }
        if next < blocks {
            so_far.add::<1>(&mut rows, scales, next);
        }
    }
    (so_far.sums.map(|sum| tree(sum)), so_far.largest.map(|largest| largest_of(largest)))
}

/// What [`Passes::weigh`] has found of `N` rows.
struct Weighed<const N: usize> {
    most: [__m256; N],
    sums: [__m256; N],
    largest: [__m256; N],
}

impl<const N: usize> Weighed<N> {
    /// `M` blocks of each row, from `first` on. Their exponentials go side by side: the steps of one wait for each other, and a processor does not look
    /// far enough ahead to begin many of the next.
    ///
    /// # Safety
    /// The rows have these blocks, and there are scales for each.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add<const M: usize>(
        &mut self,
        rows: &mut [&mut [[f32; BLOCK]]; N],
        scales: &[[u16; BLOCK]],
        first: usize,
    ) {
        let rows = rows.each_mut().map(|row| row.as_mut_ptr().wrapping_add(first));
        let mut e = [[_mm256_setzero_ps(); M]; N];
        for ((e, row), most) in e.iter_mut().zip(rows).zip(self.most) {
            for (block, e) in e.iter_mut().enumerate() {
                // SAFETY: the caller's word.
                *e = _mm256_sub_ps(unsafe { _mm256_loadu_ps(row.wrapping_add(block).cast()) }, most);
            }
        }
        let e = exp(e);
        for block in 0..M {
            // SAFETY: as above.
            let scales = from_bf16(unsafe { scales.get_unchecked(first + block) });
            let all = self.sums.iter_mut().zip(&mut self.largest).zip(rows).zip(&e);
            for (((sum, largest), row), e) in all {
                // SAFETY: as above.
                weigh_exp(e[block], scales, unsafe { &mut *row.wrapping_add(block) }, sum, largest);
            }
        }
    }
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
    let [[e]] = exp([[_mm256_sub_ps(unsafe { _mm256_loadu_ps(scores.as_ptr()) }, most)]]);
    weigh_exp(e, scales, scores, sum, largest);
}

/// Eight scores, given their exponentials.
#[inline]
#[target_feature(enable = "avx2")]
fn weigh_exp(e: __m256, scales: __m256, scores: &mut [f32; BLOCK], sum: &mut __m256, largest: &mut __m256) {
    *sum = _mm256_add_ps(*sum, e);
    let score = _mm256_mul_ps(e, scales);
    *largest = _mm256_max_ps(score, *largest);
    // SAFETY: 8 scores.
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
fn value_products<S: Sums, const N: usize>(weights: &[i16], values: &[i8], channels: usize, out: &mut [f32]) {
    let next = mix::<Eight<S>, N>(0, weights, values, channels, out);
    if next < out.len() / N {
        mix_from::<N>(next, weights, values, channels, out);
    }
}

/// A register for as many channels of a pair of positions.
pub(in crate::kernels) trait Channels {
    const LANES: usize;
    type Register: Copy;

    /// # Safety
    /// As all of these: the processor has the instructions.
    unsafe fn zero() -> Self::Register;

    /// # Safety
    /// There are two values for each lane.
    unsafe fn load(values: *const i8) -> Self::Register;

    /// Adds the products of pairs with a pair of weights.
    ///
    /// # Safety
    /// As above.
    unsafe fn add(total: Self::Register, values: Self::Register, weights: i32) -> Self::Register;

    /// Writes what all add up to, or, unless they are the `first`, adds it.
    ///
    /// # Safety
    /// There is an output for each lane.
    unsafe fn finish(totals: [Self::Register; BLOCK / 2], first: bool, out: *mut f32);
}

/// Eight channels.
pub(in crate::kernels) struct Eight<S>(PhantomData<S>);

impl<S: Sums> Channels for Eight<S> {
    const LANES: usize = 8;
    type Register = __m256i;

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        // SAFETY: the caller's word, as below.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn load(values: *const i8) -> __m256i {
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(values.cast())) }
    }

    #[inline(always)]
    unsafe fn add(total: __m256i, values: __m256i, weights: i32) -> __m256i {
        S::add_words(total, values, unsafe { _mm256_set1_epi32(weights) })
    }

    #[inline(always)]
    unsafe fn finish([a, b, c, d]: [__m256i; BLOCK / 2], first: bool, out: *mut f32) {
        unsafe {
            let total = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
            let before = if first { _mm256_setzero_ps() } else { _mm256_loadu_ps(out) };
            _mm256_storeu_ps(out, _mm256_add_ps(before, _mm256_cvtepi32_ps(total)));
        }
    }
}

/// [`Passes::mix`] for the channels from `from` on, as many of them as fill registers. The next one.
#[inline(always)]
pub(in crate::kernels) fn mix<C: Channels, const N: usize>(
    mut from: usize,
    weights: &[i16],
    values: &[i8],
    channels: usize,
    out: &mut [f32],
) -> usize {
    let (places, width) = (weights.len() / N, out.len() / N);
    if !places.is_multiple_of(BLOCK) || values.len() < places * channels {
        return from;
    }
    let weights_of = blocks_of::<N, i16>(weights);
    while from + C::LANES <= width.min(channels) {
        for first in (0..places / BLOCK).step_by(SUM_POSITIONS / BLOCK) {
            // SAFETY: the caller has the instructions; 2 weights are 4 bytes; a pair has two values for each of its `channels`; `N` times `width` outputs.
            unsafe {
                // Four sums, so that one does not have to wait for another; as many pairs of positions at once.
                let mut totals = [[C::zero(); BLOCK / 2]; N];
                for block in first..(first + SUM_POSITIONS / BLOCK).min(places / BLOCK) {
                    let pairs = values.as_ptr().add(block * BLOCK * channels + 2 * from);
                    for pair in 0..BLOCK / 2 {
                        let values = C::load(pairs.add(2 * pair * channels));
                        for (totals, weights) in totals.iter_mut().zip(weights_of) {
                            let weights = weights.as_ptr().add(block).cast::<i32>().add(pair);
                            totals[pair] = C::add(totals[pair], values, weights.read_unaligned());
                        }
                    }
                }
                for (query, totals) in totals.into_iter().enumerate() {
                    C::finish(totals, first == 0, out.as_mut_ptr().add(query * width + from));
                }
            }
        }
        from += C::LANES;
    }
    from
}

/// [`exp`](crate::numerics::exp) of each, none of which is above 0, step by step. Whatever those that are too low come to is cut off at the end.
#[inline]
#[target_feature(enable = "avx2")]
fn exp<const N: usize, const M: usize>(x: [[__m256; M]; N]) -> [[__m256; M]; N] {
    let (all, mul) = (|x| _mm256_set1_ps(x), |a, b| _mm256_mul_ps(a, b));
    let (mut shifted, mut r, mut p) = (x, x, [[all(COEFFICIENTS[0]); M]; N]);
    for i in 0..N {
        for j in 0..M {
            shifted[i][j] = _mm256_add_ps(mul(x[i][j], all(core::f32::consts::LOG2_E)), all(ROUND));
        }
    }
    for i in 0..N {
        for j in 0..M {
            let n = _mm256_sub_ps(shifted[i][j], all(ROUND));
            r[i][j] = _mm256_sub_ps(_mm256_sub_ps(x[i][j], mul(n, all(LN2.0))), mul(n, all(LN2.1)));
        }
    }
    for coefficient in &COEFFICIENTS[1..] {
        for i in 0..N {
            for j in 0..M {
                p[i][j] = _mm256_add_ps(mul(p[i][j], r[i][j]), all(*coefficient));
            }
        }
    }
    for i in 0..N {
        for j in 0..M {
            // p · 2ⁿ, which is not subnormal: n to its exponent. What else `ROUND` leaves is shifted out.
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted[i][j]));
            let e = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p[i][j]), exponent));
            p[i][j] = _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x[i][j], all(LEAST)), e);
        }
    }
    p
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
