//! Matrices that were packed for these kernels: each line of weights fills two registers.
//!
//! Where `vpdpbusd` is there, activations go in as `x + 128` and weights with their sign. `maddubs` is not exact for such: there, one of the two
//! goes in as a magnitude, and its sign to the other.

mod pairs;

use core::arch::x86_64::*;
use core::ops::Range;

use super::sums::Sums;
use crate::kernels::Input;
use crate::kernels::prepacked::{
    BUNDLE, Cursor, Job, LANES, LAST, Line, OUTPUTS, Packing, Prepacked, SCALE, START, STEP, Sparse, WINDOW,
    Window,
};

/// How these kernels want matrices. A weight of −128 has no negative.
pub(super) const fn packing<S: Sums>() -> Packing {
    Packing { least: -127, sparse: 70, window: if S::ANY { Window::Sliding } else { Window::Pairs } }
}

/// Registers of a line: lanes 0 and 1, and lanes 2 and 3.
pub(super) const HALVES: usize = 2;

/// [`multiply_prepacked`](crate::kernels::Compute::multiply_prepacked).
#[target_feature(enable = "avx2,bmi1,popcnt")]
pub(super) fn multiply<S: Sums>(
    packed: &Prepacked,
    parts: Range<usize>,
    x: Input<'_>,
    y: &mut [f32],
    y_stride: usize,
) -> bool {
    let all = |job: &Job<'_>| {
        // SAFETY: a job has as many positions as it says.
        unsafe {
            match (job.positions, &packed.sparse) {
                (1, None) => dense::<S, 1>(job),
                (_, None) => dense::<S, 2>(job),
                (1, Some(kept)) if !S::ANY => pairs::pairs::<1>(job, kept),
                (_, Some(kept)) if !S::ANY => pairs::pairs::<2>(job, kept),
                (1, Some(kept)) if job.stride <= WINDOW => sparse::<S, 1, true>(job, kept),
                (1, Some(kept)) => sparse::<S, 1, false>(job, kept),
                (_, Some(kept)) => sparse::<S, 2, false>(job, kept),
            }
        }
    };
    packed.jobs(parts, x, y, y_stride, (packing::<S>(), 2), (&all, &all))
}

/// # Safety
/// AVX2; the job has `B` positions.
#[inline(never)]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn dense<S: Sums, const B: usize>(job: &Job<'_>) {
    let (packed, groups) = (job.packed, job.part.groups);
    let mut lines = packed.lines.as_ptr().wrapping_add(job.part.line);
    for segment in 0..job.segments {
        let (x, inputs) = job.segment(segment);
        let cells = inputs / 4;
        // SAFETY: the segment's activations.
        let negatives =
            core::array::from_fn(|b| unsafe { negatives::<S>(x.wrapping_add(b * job.stride), cells) });
        let x = (x, &negatives);
        for bundle in (0..groups).step_by(BUNDLE) {
            let side_by_side = (groups - bundle).min(BUNDLE);
            // As many groups at once as there are registers for.
            for first in (0..side_by_side).step_by(if B == 1 { BUNDLE } else { 2 }) {
                let at = (segment, bundle + first, cells);
                let finish = lines.wrapping_add(first);
                let lines = finish.wrapping_add(side_by_side);
                // SAFETY: a part has a line for each of its groups and cells, a finish for each group and segment.
                unsafe {
                    match (side_by_side - first, B) {
                        (1, _) => bundle_of::<S, B, 1>(job, at, x, (lines, side_by_side), finish),
                        (3, 1) => bundle_of::<S, B, 3>(job, at, x, (lines, side_by_side), finish),
                        (4, 1) => bundle_of::<S, B, 4>(job, at, x, (lines, side_by_side), finish),
                        _ => bundle_of::<S, B, 2>(job, at, x, (lines, side_by_side), finish),
                    }
                }
            }
            lines = lines.wrapping_add(side_by_side * (1 + cells));
        }
    }
}

/// `G` groups side by side, from the `first` of the part on, in a segment of `cells` cells; a cell's lines are `stride` behind the last one's.
///
/// # Safety
/// AVX2; the job has `B` positions and these groups; there are a line for each group and cell, a finish for each group.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn bundle_of<S: Sums, const B: usize, const G: usize>(
    job: &Job<'_>,
    (segment, first, cells): (usize, usize, usize),
    (x, negatives): (*const i8, &[__m256i; B]),
    (mut lines, stride): (*const Line, usize),
    finish: *const Line,
) {
    // SAFETY: the caller's word; the job has a segment's activations at each position.
    unsafe {
        let mut sums: [[[__m256i; HALVES]; G]; B] = core::array::from_fn(|b| {
            core::array::from_fn(|group| {
                starts::<S>(finish.wrapping_add(group)).map(|start| _mm256_add_epi32(start, negatives[b]))
            })
        });
        for cell in 0..cells {
            for (b, sums) in sums.iter_mut().enumerate() {
                let x = x.wrapping_add(b * job.stride + cell * 4).cast::<i32>().read_unaligned();
                let x = _mm256_set1_epi32(x);
                let (magnitude, negative) = if S::ANY {
                    (_mm256_xor_si256(x, _mm256_set1_epi8(-128)), x)
                } else {
                    (_mm256_abs_epi8(x), _mm256_cmpgt_epi8(_mm256_setzero_si256(), x))
                };
                for (group, sums) in sums.iter_mut().enumerate() {
                    for (half, sum) in sums.iter_mut().enumerate() {
                        let weights = lines.wrapping_add(group).cast::<__m256i>().wrapping_add(half);
                        let weights = _mm256_load_si256(weights);
                        let signed = if S::ANY { weights } else { _mm256_xor_si256(weights, negative) };
                        *sum = S::add_bytes(*sum, magnitude, signed);
                    }
                }
            }
            lines = lines.wrapping_add(stride);
        }
        for (b, sums) in sums.into_iter().enumerate() {
            let x_scale = *job.scales.wrapping_add(b * job.segments + segment);
            for (group, sums) in sums.into_iter().enumerate() {
                for (half, product) in
                    products(x_scale, finish.wrapping_add(group), sums).into_iter().enumerate()
                {
                    let from = (first + group) * OUTPUTS + half * OUTPUTS / HALVES;
                    let Some(there) = job.part.outputs.checked_sub(from) else { continue };
                    let y = job.y.wrapping_add(b * job.y_stride + from);
                    let product = if segment == 0 || there == 0 {
                        product
                    } else if there >= 8 {
                        _mm256_add_ps(_mm256_loadu_ps(y), product)
                    } else {
                        _mm256_add_ps(_mm256_castps128_ps256(_mm_loadu_ps(y)), product)
                    };
                    // Outputs come by fours.
                    match there {
                        0 => {}
                        1..8 => _mm_storeu_ps(y, _mm256_castps256_ps128(product)),
                        _ => _mm256_storeu_ps(y, product),
                    }
                }
            }
        }
    }
}

/// What all the negative activations of a segment of `cells` cells come to, without their sign, in each of eight sums. The
/// complements of weights, which such activations meet in the place of their negatives, are by 1 too low.
///
/// # Safety
/// AVX2; the activations.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn negatives<S: Sums>(x: *const i8, cells: usize) -> __m256i {
    let zero = _mm256_setzero_si256();
    let mut sums = zero;
    if S::ANY {
        return zero;
    }
    for first in (0..cells).step_by(8) {
        // SAFETY: the caller's word.
        let x = unsafe { eight_cells(x.wrapping_add(first * 4), cells - first) };
        let negative = _mm256_and_si256(_mm256_abs_epi8(x), _mm256_cmpgt_epi8(zero, x));
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(negative, zero));
    }
    let two = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    _mm256_broadcastd_epi32(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two)))
}

/// Eight cells' activations, or zeros where there are no more than `cells`.
///
/// # Safety
/// AVX2; the activations.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn eight_cells(x: *const i8, cells: usize) -> __m256i {
    /// From the eighth last cell on, the ones of those that are there, and zeros.
    const THERE: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    let there = THERE.as_ptr().wrapping_add(8 - cells.min(8)).cast();
    // SAFETY: eight numbers; the caller's word.
    unsafe { _mm256_maskload_epi32(x.cast(), _mm256_loadu_si256(there)) }
}

/// Where a group's sums begin.
///
/// # Safety
/// AVX2; the finish.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn starts<S: Sums>(finish: *const Line) -> [__m256i; HALVES] {
    core::array::from_fn(|half| {
        if S::ANY {
            // SAFETY: the caller's word; a half of 16 numbers.
            let sums_and_scales = unsafe { _mm256_load_si256(finish.cast::<__m256i>().add(half)) };
            S::add_words(_mm256_setzero_si256(), sums_and_scales, _mm256_set1_epi32(START))
        } else {
            _mm256_setzero_si256()
        }
    })
}

/// What a segment adds to outputs: sums, times the scales of activations and weights.
///
/// # Safety
/// AVX2; the finish.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn products(x_scale: f32, finish: *const Line, sums: [__m256i; HALVES]) -> [__m256; HALVES] {
    core::array::from_fn(|half| {
        // SAFETY: the caller's word; a half of 16 numbers.
        let sums_and_scales = unsafe { _mm256_load_si256(finish.cast::<__m256i>().add(half)) };
        let scales = _mm256_castsi256_ps(_mm256_and_si256(sums_and_scales, _mm256_set1_epi32(SCALE)));
        _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(x_scale), scales), _mm256_cvtepi32_ps(sums[half]))
    })
}

/// With `vpdpbusd`; other kernels have [`pairs`]. `ONE`: there is one window only.
///
/// # Safety
/// AVX2; the job has `B` positions.
#[inline(never)]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn sparse<S: Sums, const B: usize, const ONE: bool>(job: &Job<'_>, kept: &Sparse) {
    let segments = if ONE { 1 } else { job.segments };
    let cursor = job.cursor(kept);
    let outputs = cursor.outputs;
    // SAFETY: for each group of a part and each segment there are a finish and a number of lines; as many lines, and a window and places for each step
    // of these. Windows are within the inputs, of which the job has as many as it says.
    unsafe {
        let flip = _mm256_set1_epi8(-128);
        let only: [[__m256i; 2]; B] = core::array::from_fn(|b| {
            [0, 8].map(|first| {
                let cells = if ONE { (job.stride / 4).saturating_sub(first) } else { 0 };
                let x = eight_cells(job.values.wrapping_add(b * job.stride + first * 4), cells);
                _mm256_xor_si256(x, flip)
            })
        });
        let mut group = cursor;
        for outputs in outputs {
            // One position after the other, as registers go: the weights are near the second time.
            let from = group;
            for (b, only) in only.iter().enumerate() {
                group = from;
                let Cursor { lines, places, windows, counts, .. } = &mut group;
                let mut y = [_mm256_setzero_ps(); HALVES];
                for segment in 0..segments {
                    let finish = *lines;
                    *lines = lines.wrapping_add(1);
                    let mut sums = starts::<S>(finish).map(|start| {
                        let mut sums = [_mm256_setzero_si256(); STEP];
                        sums[0] = start;
                        sums
                    });
                    let mut next = || {
                        let mut x = *only;
                        if !ONE {
                            let from = job.values.wrapping_add(b * job.stride + **windows as usize * 4);
                            *windows = windows.wrapping_add(1);
                            let half = |first| _mm256_loadu_si256(from.wrapping_add(first).cast());
                            x = [0, 32].map(|first| _mm256_xor_si256(half(first), flip));
                        }
                        let [low, high] = x.map(|x| _mm256_castsi256_ps(x));
                        let place: [__m256i; HALVES] = core::array::from_fn(|half| {
                            _mm256_cvtepi8_epi32(_mm_loadl_epi64(places.cast::<u64>().add(half).cast()))
                        });
                        *places = places.wrapping_add(1);
                        place.map(|place| {
                            let low = _mm256_permutevar8x32_ps(low, place);
                            let high = _mm256_permutevar8x32_ps(high, place);
                            _mm256_castps_si256(_mm256_blendv_ps(low, high, _mm256_castsi256_ps(place)))
                        })
                    };
                    let count = usize::from(**counts);
                    for _ in 0..count / STEP {
                        step::<S, STEP>(lines, next(), &mut sums);
                    }
                    if !count.is_multiple_of(STEP) {
                        step::<S, LAST>(lines, next(), &mut sums);
                    }
                    let x_scale = *job.scales.wrapping_add(b * segments + segment);
                    let products = products(x_scale, finish, sums.map(|sums| turned_back(sums)));
                    for (y, product) in y.iter_mut().zip(products) {
                        *y = if segment == 0 { product } else { _mm256_add_ps(*y, product) };
                    }
                    *counts = counts.wrapping_add(1);
                }
                for (y, outputs) in y.into_iter().zip(outputs.chunks_exact(LANES / HALVES)) {
                    _mm_storeu_ps(job.outputs_from(b, outputs[0]), _mm256_castps256_ps128(y));
                    _mm_storeu_ps(job.outputs_from(b, outputs[1]), _mm256_extractf128_ps::<1>(y));
                }
            }
        }
    }
}

/// Some lines of a step.
///
/// # Safety
/// AVX2; the lines.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn step<S: Sums, const LINES: usize>(
    lines: &mut *const Line,
    x: [__m256i; HALVES],
    sums: &mut [[__m256i; STEP]; HALVES],
) {
    let [low, high] = sums;
    for (low, high) in low.iter_mut().zip(high).take(LINES) {
        for (half, sum) in [low, high].into_iter().enumerate() {
            // SAFETY: the caller's word.
            let weights = unsafe { _mm256_load_si256(lines.cast::<__m256i>().add(half)) };
            *sum = S::add_bytes(*sum, x[half], weights);
        }
        *lines = lines.wrapping_add(1);
    }
}

/// The sums of outputs, of those of a step's lines, whose outputs are turned against each other.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn turned_back([a, b, c, d]: [__m256i; STEP]) -> __m256i {
    let near = _mm256_add_epi32(a, _mm256_shuffle_epi32::<0b10_11_00_01>(b));
    let far = _mm256_add_epi32(c, _mm256_shuffle_epi32::<0b10_11_00_01>(d));
    _mm256_add_epi32(near, _mm256_shuffle_epi32::<0b01_00_11_10>(far))
}
