//! Matrices that were packed for this kernel: products of a register are of 16 outputs, and are added up without any shuffle.

use core::arch::x86_64::*;
use core::ops::Range;

use crate::kernels::Input;
use crate::kernels::prepacked::{
    BUNDLE, Cursor, Job, LANES, LAST, Line, OUTPUTS, PAIR, PLACES_BITS, PLACES_STEPS, Packing, Prepacked,
    SCALE, SHORT_PLACES_BITS, START, STEP, Sparse, Window,
};

/// How this kernel wants matrices.
pub(super) const PACKING: Packing = Packing { least: i8::MIN, sparse: 80, window: Window::Segment };

/// Lines of weights from which on a matrix does not come from the near caches, and is asked for ahead.
const MANY: usize = if cfg!(test) { 100 } else { 8192 };
/// How many lines ahead.
const AHEAD: usize = 128;
/// Positions that share weights, as far as registers go.
const POSITIONS: usize = 4;
/// The same where each has four registers of activations.
const WIDE_POSITIONS: usize = 3;
/// The same where two groups go side by side.
const SHORT_POSITIONS: usize = 2;

/// Registers of a segment's activations.
const REGISTERS: usize = 4;
/// Activations of a register.
const REGISTER: usize = 64;
/// What two registers have. From as many one permutation takes its pick.
const NARROW: usize = 2 * REGISTER;

/// [`multiply_prepacked`](crate::kernels::Compute::multiply_prepacked).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
pub(super) fn multiply(
    packed: &Prepacked,
    parts: Range<usize>,
    x: Input<'_>,
    y: &mut [f32],
    y_stride: usize,
) -> bool {
    // SAFETY: a job has as many positions as it says, and no more than `positions`.
    let one = |job: &Job<'_>| unsafe {
        match &packed.sparse {
            None => dense::<1>(job),
            Some(kept) if packed.is_short() => short::<1>(job, kept),
            Some(kept) if job.stride <= NARROW && packed.lines() < MANY => {
                sparse::<1, false, false>(job, kept)
            }
            Some(kept) if packed.lines() < MANY => sparse::<1, true, false>(job, kept),
            Some(kept) => sparse::<1, true, true>(job, kept),
        }
    };
    // SAFETY: the same.
    let several = |job: &Job<'_>| unsafe {
        match (job.positions, &packed.sparse) {
            (1, None) => dense::<1>(job),
            (2, None) => dense::<2>(job),
            (3, None) => dense::<3>(job),
            (_, None) => dense::<POSITIONS>(job),
            (1, Some(kept)) if packed.is_short() => short::<1>(job, kept),
            (_, Some(kept)) if packed.is_short() => short::<SHORT_POSITIONS>(job, kept),
            (1, Some(kept)) => sparse::<1, true, true>(job, kept),
            (2, Some(kept)) => sparse::<2, true, true>(job, kept),
            (WIDE_POSITIONS, Some(kept)) => sparse::<WIDE_POSITIONS, true, true>(job, kept),
            (_, Some(kept)) => sparse::<POSITIONS, false, false>(job, kept),
        }
    };
    let positions = match packed.sparse {
        Some(_) if packed.is_short() => SHORT_POSITIONS,
        Some(_) if packed.inputs.1 > NARROW => WIDE_POSITIONS,
        _ => POSITIONS,
    };
    packed.jobs(parts, x, y, y_stride, (PACKING, positions), (one, several))
}

/// # Safety
/// AVX-512; the job has `B` positions.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn dense<const B: usize>(job: &Job<'_>) {
    let (packed, groups) = (job.packed, job.part.groups);
    let mut lines = packed.lines.as_ptr().wrapping_add(job.part.line);
    for segment in 0..job.segments {
        let (x, inputs) = job.segment(segment);
        let cells = inputs / 4;
        for first in (0..groups).step_by(BUNDLE) {
            let at = (segment, first, cells);
            // SAFETY: a part has a line for each of its groups and cells, a finish for each group and segment.
            let done = unsafe {
                match groups - first {
                    1 => bundle::<B, 1>(job, at, x, lines),
                    2 => bundle::<B, 2>(job, at, x, lines),
                    3 => bundle::<B, 3>(job, at, x, lines),
                    _ => bundle::<B, 4>(job, at, x, lines),
                }
            };
            lines = lines.wrapping_add(done * (1 + cells));
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
    finish: *const Line,
) -> usize {
    // SAFETY: the caller's word; the job has a segment's activations at each position; outputs are written by a mask.
    unsafe {
        let mut lines = finish.wrapping_add(G);
        let starts: [__m512i; G] = core::array::from_fn(|group| start(finish.wrapping_add(group)));
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
                let mut product = product(x_scale, finish.wrapping_add(group), sum);
                if segment > 0 {
                    product = _mm512_add_ps(_mm512_maskz_loadu_ps(there, y), product);
                }
                _mm512_mask_storeu_ps(y, there, product);
            }
        }
    }
    G
}

/// `WIDE`: segments may have more inputs than [`NARROW`]. `FAR`: weights are asked for ahead.
///
/// # Safety
/// AVX-512; the job has `B` positions, and one narrow segment if it is not `WIDE`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn sparse<const B: usize, const WIDE: bool, const FAR: bool>(job: &Job<'_>, kept: &Sparse) {
    let segments = if WIDE { job.segments } else { 1 };
    let Cursor { mut lines, mut counts, outputs, .. } = job.cursor(kept);
    // SAFETY: for each group of a part and each segment there are a finish and a number of lines; as many lines, and places for the steps that these
    // are. Places are within the segment, of whose activations the job has as many as it says.
    unsafe {
        let mut x = activations::<B, WIDE>(job, 0);
        for outputs in outputs {
            let mut y = [_mm512_setzero_ps(); B];
            for segment in 0..segments {
                if segments > 1 {
                    x = activations::<B, WIDE>(job, segment);
                }
                let finish = lines;
                lines = lines.wrapping_add(1);
                let none = _mm512_setzero_si512();
                let mut sums = [[start(finish), none, none, none]; B];
                let mut left = *counts as usize;
                while left > PLACES_STEPS * STEP {
                    steps::<B, WIDE, FAR, { PLACES_STEPS * 2 }>(&mut lines, &x, &mut sums);
                    left -= PLACES_STEPS * STEP;
                }
                // Each number of lines has code of its own, so that there is one branch to be foreseen.
                match left / LAST {
                    0 => {}
                    1 => steps::<B, WIDE, FAR, 1>(&mut lines, &x, &mut sums),
                    2 => steps::<B, WIDE, FAR, 2>(&mut lines, &x, &mut sums),
                    3 => steps::<B, WIDE, FAR, 3>(&mut lines, &x, &mut sums),
                    4 => steps::<B, WIDE, FAR, 4>(&mut lines, &x, &mut sums),
                    5 => steps::<B, WIDE, FAR, 5>(&mut lines, &x, &mut sums),
                    6 => steps::<B, WIDE, FAR, 6>(&mut lines, &x, &mut sums),
                    7 => steps::<B, WIDE, FAR, 7>(&mut lines, &x, &mut sums),
                    8 => steps::<B, WIDE, FAR, 8>(&mut lines, &x, &mut sums),
                    9 => steps::<B, WIDE, FAR, 9>(&mut lines, &x, &mut sums),
                    _ => steps::<B, WIDE, FAR, 10>(&mut lines, &x, &mut sums),
                }
                for (b, (y, sums)) in y.iter_mut().zip(sums).enumerate() {
                    let x_scale = *job.scales.wrapping_add(b * segments + segment);
                    let product = product(x_scale, finish, turned_back(sums));
                    *y = if segment == 0 { product } else { _mm512_add_ps(*y, product) };
                }
                counts = counts.wrapping_add(1);
            }
            for (b, y) in y.into_iter().enumerate() {
                store(job, b, outputs, y);
            }
        }
    }
}

/// Rows whose activations a register has.
///
/// # Safety
/// AVX-512; the job has `B` positions, and short rows.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn short<const B: usize>(job: &Job<'_>, kept: &Sparse) {
    let Cursor { mut lines, mut counts, outputs, .. } = job.cursor(kept);
    // SAFETY: for each pair of groups of a part there are places, two finishes, and a number of lines, of which each group has as many. Places are
    // within the row, of whose activations the job has as many as it says.
    unsafe {
        let x = activations::<B, false>(job, 0).map(|[x, ..]| x);
        for outputs in outputs.as_chunks::<PAIR>().0 {
            let finishes: [*const Line; PAIR] = core::array::from_fn(|group| lines.wrapping_add(1 + group));
            let none = _mm512_setzero_si512();
            let mut sums = [finishes.map(|finish| [start(finish), none, none, none]); B];
            let count = usize::from(*counts);
            match count {
                0 => {}
                1 => short_steps::<B, 1>(lines, &x, &mut sums),
                2 => short_steps::<B, 2>(lines, &x, &mut sums),
                4 => short_steps::<B, 4>(lines, &x, &mut sums),
                5 => short_steps::<B, 5>(lines, &x, &mut sums),
                6 => short_steps::<B, 6>(lines, &x, &mut sums),
                8 => short_steps::<B, 8>(lines, &x, &mut sums),
                9 => short_steps::<B, 9>(lines, &x, &mut sums),
                10 => short_steps::<B, 10>(lines, &x, &mut sums),
                12 => short_steps::<B, 12>(lines, &x, &mut sums),
                13 => short_steps::<B, 13>(lines, &x, &mut sums),
                14 => short_steps::<B, 14>(lines, &x, &mut sums),
                _ => short_steps::<B, 16>(lines, &x, &mut sums),
            }
            for (b, sums) in sums.into_iter().enumerate() {
                let x_scale = *job.scales.wrapping_add(b);
                for ((finish, outputs), sums) in finishes.into_iter().zip(outputs).zip(sums) {
                    store(job, b, outputs, product(x_scale, finish, turned_back(sums)));
                }
            }
            lines = lines.wrapping_add(1 + PAIR * (1 + count));
            counts = counts.wrapping_add(1);
        }
    }
}

/// All steps of a pair, each of whose groups has `LINES` lines.
///
/// # Safety
/// AVX-512; the places, the finishes and the lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn short_steps<const B: usize, const LINES: usize>(
    pair: *const Line,
    x: &[__m512i; B],
    sums: &mut [[[__m512i; STEP]; PAIR]; B],
) {
    // SAFETY: the caller's word.
    unsafe {
        let places = _mm512_load_si512(pair.cast());
        let mut places = [places, _mm512_srli_epi32::<{ (32 / PAIR) as u32 }>(places)];
        let mut lines = pair.wrapping_add(1 + PAIR);
        for from in (0..LINES).step_by(STEP) {
            for (group, place) in places.iter_mut().enumerate() {
                let x = x.map(|x| _mm512_permutexvar_epi32(*place, x));
                for number in 0..(LINES - from).min(STEP) {
                    let weights = _mm512_load_si512(lines.cast());
                    lines = lines.wrapping_add(1);
                    for (x, sums) in x.iter().zip(sums.iter_mut()) {
                        let sum = &mut sums[group][number];
                        *sum = _mm512_dpbusd_epi32(*sum, *x, weights);
                    }
                }
                *place = _mm512_srli_epi32::<{ SHORT_PLACES_BITS as u32 }>(*place);
            }
        }
    }
}

/// A segment's activations, `x + 128`.
///
/// # Safety
/// AVX-512; the job has `B` positions and the segment, which is narrow if it is not `WIDE`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn activations<const B: usize, const WIDE: bool>(
    job: &Job<'_>,
    segment: usize,
) -> [[__m512i; REGISTERS]; B] {
    let (from, inputs) = job.segment(segment);
    let flip = _mm512_set1_epi8(-128);
    core::array::from_fn(|b| {
        core::array::from_fn(|register| {
            let first = register * REGISTER;
            if !WIDE && first >= NARROW {
                return flip;
            }
            let there = _bzhi_u64(u64::MAX, inputs.saturating_sub(first).min(REGISTER) as u32);
            let from = from.wrapping_add(b * job.stride + first);
            // SAFETY: the caller's word; what is beyond the segment is masked.
            _mm512_xor_si512(unsafe { _mm512_maskz_loadu_epi8(there, from) }, flip)
        })
    })
}

/// All steps that `places` has the places of, which have twice `HALVES` lines.
///
/// # Safety
/// AVX-512; the places and the lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn steps<const B: usize, const WIDE: bool, const FAR: bool, const HALVES: usize>(
    lines: &mut *const Line,
    x: &[[__m512i; REGISTERS]; B],
    sums: &mut [[__m512i; STEP]; B],
) {
    // SAFETY: the caller's word.
    unsafe {
        let mut place = _mm512_load_si512(lines.cast());
        *lines = lines.wrapping_add(1);
        for _ in 0..HALVES / 2 {
            step::<B, STEP, FAR>(lines, picked::<B, WIDE>(x, place), sums);
            place = _mm512_srli_epi32::<{ PLACES_BITS as u32 }>(place);
        }
        if HALVES % 2 == 1 {
            step::<B, LAST, FAR>(lines, picked::<B, WIDE>(x, place), sums);
        }
    }
}

/// The activations that the lowest bits of `place` say.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
fn picked<const B: usize, const WIDE: bool>(x: &[[__m512i; REGISTERS]; B], place: __m512i) -> [__m512i; B] {
    let upper = _mm512_test_epi32_mask(place, _mm512_set1_epi32(1 << (PLACES_BITS - 1)));
    x.map(|[a, b, c, d]| {
        let lower = _mm512_permutex2var_epi32(a, place, b);
        match WIDE {
            true => _mm512_mask_blend_epi32(upper, lower, _mm512_permutex2var_epi32(c, place, d)),
            false => lower,
        }
    })
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

/// Where a group's sums begin.
///
/// # Safety
/// AVX-512; the finish.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn start(finish: *const Line) -> __m512i {
    // SAFETY: 16 numbers.
    let sums_and_scales = unsafe { _mm512_load_si512(finish.cast()) };
    _mm512_dpwssd_epi32(_mm512_setzero_si512(), sums_and_scales, _mm512_set1_epi32(START))
}

/// What a segment adds to outputs: sums, times the scales of activations and weights.
///
/// # Safety
/// AVX-512; the finish.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn product(x_scale: f32, finish: *const Line, sums: __m512i) -> __m512 {
    // SAFETY: 16 numbers.
    let sums_and_scales = unsafe { _mm512_load_si512(finish.cast()) };
    let scales = _mm512_castsi512_ps(_mm512_and_si512(sums_and_scales, _mm512_set1_epi32(SCALE)));
    _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(x_scale), scales), _mm512_cvtepi32_ps(sums))
}
