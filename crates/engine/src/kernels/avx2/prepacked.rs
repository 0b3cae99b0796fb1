//! Matrices that were packed for these kernels: each line of weights fills two registers.
//!
//! Where `vpdpbusd` is there, activations go in as `x + 128` and weights with their sign. `maddubs` is not exact for such: there, one of the two
//! goes in as a magnitude, and its sign to the other.

use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use core::ops::Range;

use pageformer_card::matrix::TILE_OUTPUTS;

use super::sums::Sums;
use crate::kernels::Input;
use crate::kernels::prepacked::{
    BUNDLE, Cursor, Finish, Job, LANES, Line, OUTPUTS, PART, PLACE_BITS, Packing, Prepacked, Segment, Sparse,
};

/// How these kernels want matrices. A weight of −128 has no negative.
pub(super) const fn packing<S: Sums>() -> Packing {
    Packing { window: 8, least: -127, sparse: 70 }
}

/// What activations are flipped by.
const fn flip<S: Sums>() -> u8 {
    if S::ANY { 0x80 } else { 0 }
}

/// Registers of a line: lanes 0 and 1, and lanes 2 and 3.
const HALVES: usize = 2;

/// [`multiply_prepacked`](crate::kernels::Compute::multiply_prepacked).
#[target_feature(enable = "avx2,bmi1,popcnt")]
pub(super) fn multiply<S: Sums>(
    packed: &Prepacked,
    parts: Range<usize>,
    x: Input<'_>,
    y: &mut [f32],
    y_stride: usize,
) -> bool {
    packed.jobs(parts, x, y, y_stride, (packing::<S>(), 2), |job| {
        // SAFETY: a job has as many positions as it says.
        unsafe {
            match (job.positions, &packed.sparse) {
                (1, None) => dense::<S, 1>(job),
                (_, None) => dense::<S, 2>(job),
                (1, Some(kept)) => sparse::<S, 1>(job, kept),
                (_, Some(kept)) => sparse::<S, 2>(job, kept),
            }
        }
    })
}

/// # Safety
/// AVX2; the job has `B` positions.
#[inline(never)]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn dense<S: Sums, const B: usize>(job: &Job<'_>) {
    let (packed, groups) = (job.packed, job.part.groups);
    let mut lines = packed.lines.as_ptr().wrapping_add(job.part.line);
    let mut finish = packed.finish.as_ptr().wrapping_add(job.part.finish);
    let mut x = Segment::<B>::EMPTY;
    for segment in 0..job.segments {
        let cells = x.load(job, segment, flip::<S>()) / 4;
        for bundle in (0..groups).step_by(BUNDLE) {
            let side_by_side = (groups - bundle).min(BUNDLE);
            // Two groups at once, as registers go.
            for first in (0..side_by_side).step_by(2) {
                let at = (segment, bundle + first, cells);
                let lines = lines.wrapping_add(first);
                // SAFETY: a part has a line for each of its groups and cells, a finish for each group and segment.
                unsafe {
                    match side_by_side - first {
                        1 => bundle_of::<S, B, 1>(job, at, &x, (lines, side_by_side), finish),
                        _ => bundle_of::<S, B, 2>(job, at, &x, (lines, side_by_side), finish),
                    }
                }
                finish = finish.wrapping_add((side_by_side - first).min(2));
            }
            lines = lines.wrapping_add(side_by_side * cells);
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
    x: &Segment<B>,
    (mut lines, stride): (*const Line, usize),
    finish: *const Finish,
) {
    // SAFETY: the caller's word; a segment has at most as many cells as `x` has room for.
    unsafe {
        let mut sums: [[[__m256i; HALVES]; G]; B] =
            [core::array::from_fn(|group| starts::<S>(finish.wrapping_add(group))); B];
        for cell in 0..cells {
            for (b, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_epi32(x.from(b, cell * 4).cast::<i32>().read_unaligned());
                let magnitude = if S::ANY { x } else { _mm256_abs_epi8(x) };
                for (group, sums) in sums.iter_mut().enumerate() {
                    for (half, sum) in sums.iter_mut().enumerate() {
                        let weights = lines.wrapping_add(group).cast::<__m256i>().wrapping_add(half);
                        let weights = _mm256_load_si256(weights);
                        let signed = if S::ANY { weights } else { _mm256_sign_epi8(weights, x) };
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
                    let Some(there) = job.outputs.checked_sub(from) else { continue };
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

/// Where a group's sums begin.
///
/// # Safety
/// AVX2; the finish.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn starts<S: Sums>(finish: *const Finish) -> [__m256i; HALVES] {
    core::array::from_fn(|half| {
        if S::ANY {
            // SAFETY: the caller's word; a half of 16 numbers.
            unsafe { _mm256_load_si256((*finish).start.as_ptr().cast::<__m256i>().add(half)) }
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
unsafe fn products(x_scale: f32, finish: *const Finish, sums: [__m256i; HALVES]) -> [__m256; HALVES] {
    core::array::from_fn(|half| {
        // SAFETY: the caller's word; a half of 16 scales.
        let scales = unsafe { _mm256_load_ps((*finish).scales.as_ptr().add(half * OUTPUTS / HALVES)) };
        _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(x_scale), scales), _mm256_cvtepi32_ps(sums[half]))
    })
}

#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn fours(eight: __m256) -> [__m128; 2] {
    [_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight)]
}

/// # Safety
/// AVX2; the job has `B` positions.
#[inline(never)]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn sparse<S: Sums, const B: usize>(job: &Job<'_>, kept: &Sparse) {
    let segments = job.segments;
    let Cursor { mut lines, mut finish, mut places, mut windows, mut pairs, rows } = job.cursor(kept);
    let mut x = Segment::<B>::EMPTY;
    // Products so far, in the order of the lanes.
    let mut y = [[const { [MaybeUninit::<__m256>::uninit(); HALVES] }; PART]; B];
    for segment in 0..segments {
        x.load(job, segment, flip::<S>());
        for (group, rows) in rows.iter().enumerate() {
            // SAFETY: a part has at most `PART` groups, and for each and each segment a finish and a number of pairs; as many pairs of
            // lines and places; and a window for each two of these. Windows begin in their segment. `y` is written in the first segment.
            unsafe {
                let mut sums = [starts::<S>(finish); B];
                let mut left = *pairs;
                while left > 0 {
                    let input = *windows as usize * 4;
                    let x: [__m256i; B] =
                        core::array::from_fn(|b| _mm256_loadu_si256(x.from(b, input).cast()));
                    for _ in 0..left.min(2) {
                        pair::<S, B>(lines, *places, &x, &mut sums);
                        lines = lines.wrapping_add(2);
                        places = places.wrapping_add(1);
                    }
                    left = left.saturating_sub(2);
                    windows = windows.wrapping_add(1);
                }
                for (b, (y, sums)) in y.iter_mut().zip(sums).enumerate() {
                    let products = products(*job.scales.wrapping_add(b * segments + segment), finish, sums);
                    for (half, (y, product)) in
                        y.get_unchecked_mut(group).iter_mut().zip(products).enumerate()
                    {
                        let y = y.write(if segment == 0 {
                            product
                        } else {
                            _mm256_add_ps(y.assume_init(), product)
                        });
                        if segment + 1 == segments {
                            for (row, y) in rows.iter().skip(half * LANES / HALVES).zip(fours(*y)) {
                                if let Some(outputs) = job.outputs_of(b, *row) {
                                    _mm_storeu_ps(outputs, y);
                                }
                            }
                        }
                    }
                }
                pairs = pairs.wrapping_add(1);
                finish = finish.wrapping_add(1);
            }
        }
    }
}

/// Two lines of cells, and the places of their activations in the window `x`.
///
/// # Safety
/// AVX2; the lines.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn pair<S: Sums, const B: usize>(
    lines: *const Line,
    places: u32,
    x: &[__m256i; B],
    sums: &mut [[__m256i; HALVES]; B],
) {
    let both = _mm256_set1_epi32(places as i32);
    for register in 0..2 * HALVES {
        // SAFETY: the caller's word.
        let (weights, shifts) = unsafe {
            (
                _mm256_load_si256(lines.cast::<__m256i>().add(register)),
                _mm256_load_si256(SHIFTS.0[register].as_ptr().cast()),
            )
        };
        let place = _mm256_srlv_epi32(both, shifts);
        for (x, sums) in x.iter().zip(sums.iter_mut()) {
            let x = _mm256_permutevar8x32_epi32(*x, place);
            let sum = &mut sums[register % HALVES];
            *sum = match S::ANY {
                true => S::add_bytes(*sum, x, weights),
                false => S::add_bytes(*sum, _mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights)),
            };
        }
    }
}

#[repr(C, align(32))]
struct Shifts([[i32; 8]; 2 * HALVES]);

/// Where each lane's place is among those of a pair, for each register of the two lines.
static SHIFTS: Shifts = {
    let mut shifts = [[0; 8]; 2 * HALVES];
    let mut i = 0;
    while i < 32 {
        shifts[i / 8][i % 8] = (i / TILE_OUTPUTS * PLACE_BITS as usize) as i32;
        i += 1;
    }
    Shifts(shifts)
};
