//! Matrices that were packed for this kernel: products of a register are of 16 outputs, and are added up without any shuffle.

use core::arch::x86_64::*;
use core::ops::Range;

use crate::kernels::Input;
use crate::kernels::prepacked::{
    BUNDLE, Cursor, Finish, Job, LANES, LAST, Line, OUTPUTS, Packing, Prepacked, STEP, Sparse, WINDOW,
};

/// How this kernel wants matrices.
pub(super) const PACKING: Packing = Packing { least: i8::MIN, sparse: 80 };

/// Lines of weights from which on a matrix does not come from the near caches, and is asked for ahead.
const MANY: usize = if cfg!(test) { 100 } else { 8192 };
/// How many lines ahead.
const AHEAD: usize = 128;
/// Positions that share weights, as far as registers go.
const POSITIONS: usize = 4;

/// [`multiply_prepacked`](crate::kernels::Compute::multiply_prepacked).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
pub(super) fn multiply(
    packed: &Prepacked,
    parts: Range<usize>,
    x: Input<'_>,
    y: &mut [f32],
    y_stride: usize,
) -> bool {
    packed.jobs(parts, x, y, y_stride, (PACKING, POSITIONS), |job| {
        // SAFETY: a job has as many positions as it says.
        unsafe {
            match (job.positions, &packed.sparse) {
                (1, None) => dense::<1>(job),
                (2, None) => dense::<2>(job),
                (3, None) => dense::<3>(job),
                (_, None) => dense::<POSITIONS>(job),
                (1, Some(kept)) if job.stride <= WINDOW => sparse::<1, true, false>(job, kept),
                (1, Some(kept)) if packed.lines() < MANY => sparse::<1, false, false>(job, kept),
                (1, Some(kept)) => sparse::<1, false, true>(job, kept),
                (2, Some(kept)) => sparse::<2, false, true>(job, kept),
                (3, Some(kept)) => sparse::<3, false, true>(job, kept),
                (4, Some(kept)) if job.stride <= WINDOW => sparse::<POSITIONS, true, false>(job, kept),
                (_, Some(kept)) => sparse::<POSITIONS, false, true>(job, kept),
            }
        }
    })
}

/// # Safety
/// AVX-512; the job has `B` positions.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn dense<const B: usize>(job: &Job<'_>) {
    let (packed, groups) = (job.packed, job.part.groups);
    let mut lines = packed.lines.as_ptr().wrapping_add(job.part.line);
    let mut finish = packed.finish.as_ptr().wrapping_add(job.part.finish);
    for segment in 0..job.segments {
        let (x, inputs) = job.segment(segment);
        let cells = inputs / 4;
        for first in (0..groups).step_by(BUNDLE) {
            let at = (segment, first, cells);
            // SAFETY: a part has a line for each of its groups and cells, a finish for each group and segment.
            let done = unsafe {
                match groups - first {
                    1 => bundle::<B, 1>(job, at, x, lines, finish),
                    2 => bundle::<B, 2>(job, at, x, lines, finish),
                    3 => bundle::<B, 3>(job, at, x, lines, finish),
                    _ => bundle::<B, 4>(job, at, x, lines, finish),
                }
            };
            lines = lines.wrapping_add(done * cells);
            finish = finish.wrapping_add(done);
        }
    }
}

/// `G` groups side by side, from the `first` of the part on, in a segment of `cells` cells.
///
/// # Safety
/// AVX-512; the job has `B` positions and these groups; there are a line for each group and cell, a finish for each group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn bundle<const B: usize, const G: usize>(
    job: &Job<'_>,
    (segment, first, cells): (usize, usize, usize),
    x: *const i8,
    mut lines: *const Line,
    finish: *const Finish,
) -> usize {
    // SAFETY: the caller's word; the job has a segment's activations at each position; outputs are written by a mask.
    unsafe {
        let starts: [__m512i; G] = core::array::from_fn(|group| {
            _mm512_load_si512((*finish.wrapping_add(group)).start.as_ptr().cast())
        });
        let mut sums = [starts; B];
        let flip = _mm512_set1_epi8(-128);
        for cell in 0..cells {
            let weights: [__m512i; G] =
                core::array::from_fn(|group| _mm512_load_si512(lines.wrapping_add(group).cast()));
            for (b, sums) in sums.iter_mut().enumerate() {
                let x = x.wrapping_add(b * job.stride + cell * 4).cast::<i32>().read_unaligned();
                let four = _mm512_xor_si512(_mm512_set1_epi32(x), flip);
                for (weights, sum) in weights.into_iter().zip(sums) {
                    *sum = _mm512_dpbusd_epi32(*sum, four, weights);
                }
            }
            lines = lines.wrapping_add(G);
        }
        for (b, sums) in sums.into_iter().enumerate() {
            let x_scale = *job.scales.wrapping_add(b * job.segments + segment);
            for (group, sum) in sums.into_iter().enumerate() {
                let output = (first + group) * OUTPUTS;
                let there = ((1u32 << (job.part.outputs - output).min(OUTPUTS)) - 1) as u16;
                let y = job.y.wrapping_add(b * job.y_stride + output);
                let mut product = product(x_scale, &*finish.wrapping_add(group), sum);
                if segment > 0 {
                    product = _mm512_add_ps(_mm512_maskz_loadu_ps(there, y), product);
                }
                _mm512_mask_storeu_ps(y, there, product);
            }
        }
    }
    G
}

/// `ONE`: there is one window only.
///
/// # Safety
/// AVX-512; the job has `B` positions.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn sparse<const B: usize, const ONE: bool, const FAR: bool>(job: &Job<'_>, kept: &Sparse) {
    let segments = if ONE { 1 } else { job.segments };
    let Cursor { mut lines, mut finish, mut places, mut windows, mut counts, outputs } = job.cursor(kept);
    // SAFETY: for each group of a part and each segment there are a finish and a number of lines; as many lines, and a window and places for each step
    // of these. Windows are within the inputs, of which the job has as many as it says.
    unsafe {
        let flip = _mm512_set1_epi8(-128);
        let there = u64::MAX >> (WINDOW - job.stride.min(WINDOW));
        let only: [__m512i; B] = core::array::from_fn(|b| match ONE {
            true => _mm512_maskz_loadu_epi8(there, job.values.wrapping_add(b * job.stride)),
            false => _mm512_setzero_si512(),
        });
        let only = only.map(|x| _mm512_xor_si512(x, flip));
        for outputs in outputs {
            let mut y = [_mm512_setzero_ps(); B];
            for segment in 0..segments {
                let start = _mm512_load_si512((*finish).start.as_ptr().cast());
                let none = _mm512_setzero_si512();
                let mut sums = [[start, none, none, none]; B];
                let mut next = || {
                    let place = _mm512_cvtepi8_epi32(_mm_loadu_si128(places.cast()));
                    places = places.wrapping_add(1);
                    let mut x = only;
                    if !ONE {
                        let from = job.values.wrapping_add(*windows as usize * 4);
                        windows = windows.wrapping_add(1);
                        for (b, x) in x.iter_mut().enumerate() {
                            *x = _mm512_loadu_si512(from.wrapping_add(b * job.stride).cast());
                            *x = _mm512_xor_si512(*x, flip);
                        }
                    }
                    x.map(|x| _mm512_permutexvar_epi32(place, x))
                };
                let count = *counts as usize;
                for _ in 0..count / STEP {
                    step::<B, STEP, FAR>(&mut lines, next(), &mut sums);
                }
                if !count.is_multiple_of(STEP) {
                    step::<B, LAST, FAR>(&mut lines, next(), &mut sums);
                }
                for (b, (y, sums)) in y.iter_mut().zip(sums).enumerate() {
                    let x_scale = *job.scales.wrapping_add(b * segments + segment);
                    let product = product(x_scale, &*finish, turned_back(sums));
                    *y = if segment == 0 { product } else { _mm512_add_ps(*y, product) };
                }
                counts = counts.wrapping_add(1);
                finish = finish.wrapping_add(1);
            }
            for (b, y) in y.into_iter().enumerate() {
                store(job, b, outputs, y);
            }
        }
    }
}

/// Some lines of a step.
///
/// # Safety
/// AVX-512; the lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn step<const B: usize, const LINES: usize, const FAR: bool>(
    lines: &mut *const Line,
    x: [__m512i; B],
    sums: &mut [[__m512i; STEP]; B],
) {
    for number in 0..LINES {
        // SAFETY: the caller's word. What is asked for ahead need not exist.
        unsafe {
            if FAR {
                _mm_prefetch::<_MM_HINT_T0>(lines.wrapping_add(AHEAD).cast());
            }
            let weights = _mm512_load_si512(lines.cast());
            for (x, sums) in x.iter().zip(sums.iter_mut()) {
                sums[number] = _mm512_dpbusd_epi32(sums[number], *x, weights);
            }
        }
        *lines = lines.wrapping_add(1);
    }
}

/// The sums of outputs, of those of a step's lines, whose outputs are turned against each other.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
fn turned_back([a, b, c, d]: [__m512i; STEP]) -> __m512i {
    let near = _mm512_add_epi32(a, _mm512_shuffle_epi32::<0b10_11_00_01>(b));
    let far = _mm512_add_epi32(c, _mm512_shuffle_epi32::<0b10_11_00_01>(d));
    _mm512_add_epi32(near, _mm512_shuffle_epi32::<0b01_00_11_10>(far))
}

/// Outputs of a group's lanes at position `b`.
///
/// # Safety
/// AVX-512; the outputs are of the job's part.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn store(job: &Job<'_>, b: usize, outputs: &[u32; LANES], y: __m512) {
    let lanes: [__m128; LANES] = [
        _mm512_castps512_ps128(y),
        _mm512_extractf32x4_ps::<1>(y),
        _mm512_extractf32x4_ps::<2>(y),
        _mm512_extractf32x4_ps::<3>(y),
    ];
    for (output, y) in outputs.iter().zip(lanes) {
        // SAFETY: the caller's word.
        unsafe { _mm_storeu_ps(job.outputs_from(b, *output), y) };
    }
}

/// What a segment adds to outputs: sums, times the scales of activations and weights.
#[inline]
#[target_feature(enable = "avx512f")]
fn product(x_scale: f32, finish: &Finish, sums: __m512i) -> __m512 {
    // SAFETY: 16 scales.
    let scales = unsafe { _mm512_load_ps(finish.scales.as_ptr()) };
    _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(x_scale), scales), _mm512_cvtepi32_ps(sums))
}
