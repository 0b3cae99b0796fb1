//! Matrices that were packed for this kernel: products of a register are of 16 outputs, and are added up without any shuffle.

use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use core::ops::Range;

use pageformer_card::matrix::TILE_OUTPUTS;

use crate::kernels::Input;
use crate::kernels::prepacked::{
    BUNDLE, Cursor, Finish, Job, LANES, Line, OUTPUTS, PART, PLACE_BITS, Packing, Prepacked, Segment, Sparse,
};

/// How this kernel wants matrices.
pub(super) const PACKING: Packing = Packing { window: 16, least: i8::MIN, sparse: 80 };

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
                (1, Some(kept)) if packed.lines() < MANY => sparse::<1, false>(job, kept),
                (1, Some(kept)) => sparse::<1, true>(job, kept),
                (2, Some(kept)) => sparse::<2, true>(job, kept),
                (3, Some(kept)) => sparse::<3, true>(job, kept),
                (_, Some(kept)) => sparse::<POSITIONS, true>(job, kept),
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
    let mut x = Segment::<B>::EMPTY;
    for segment in 0..job.segments {
        let cells = x.load(job, segment, 0x80) / 4;
        for first in (0..groups).step_by(BUNDLE) {
            let at = (segment, first, cells);
            // SAFETY: a part has a line for each of its groups and cells, a finish for each group and segment.
            let done = unsafe {
                match groups - first {
                    1 => bundle::<B, 1>(job, at, &x, lines, finish),
                    2 => bundle::<B, 2>(job, at, &x, lines, finish),
                    3 => bundle::<B, 3>(job, at, &x, lines, finish),
                    _ => bundle::<B, 4>(job, at, &x, lines, finish),
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
    x: &Segment<B>,
    mut lines: *const Line,
    finish: *const Finish,
) -> usize {
    // SAFETY: the caller's word; a segment has at most as many cells as `x` has room for; outputs are written by a mask.
    unsafe {
        let starts: [__m512i; G] = core::array::from_fn(|group| {
            _mm512_load_si512((*finish.wrapping_add(group)).start.as_ptr().cast())
        });
        let mut sums = [starts; B];
        for cell in 0..cells {
            let weights: [__m512i; G] =
                core::array::from_fn(|group| _mm512_load_si512(lines.wrapping_add(group).cast()));
            for (b, sums) in sums.iter_mut().enumerate() {
                let four = _mm512_set1_epi32(x.from(b, cell * 4).cast::<i32>().read_unaligned());
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
                let there = ((1u32 << (job.outputs - output).min(OUTPUTS)) - 1) as u16;
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

/// # Safety
/// AVX-512; the job has `B` positions.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn sparse<const B: usize, const FAR: bool>(job: &Job<'_>, kept: &Sparse) {
    let segments = job.segments;
    let Cursor { mut lines, mut finish, mut places, mut windows, mut pairs, rows } = job.cursor(kept);
    let mut x = Segment::<B>::EMPTY;
    // Products so far, in the order of the lanes.
    let mut y = [[const { MaybeUninit::<__m512>::uninit() }; PART]; B];
    for segment in 0..segments {
        x.load(job, segment, 0x80);
        for (group, rows) in rows.iter().enumerate() {
            // SAFETY: a part has at most `PART` groups, and for each and each segment a finish and a number of pairs; as many pairs of
            // lines and places; and a window for each two of these. Windows begin in their segment. `y` is written in the first segment.
            unsafe {
                let start = _mm512_load_si512((*finish).start.as_ptr().cast());
                let mut sums = [[start, _mm512_setzero_si512()]; B];
                let mut left = *pairs;
                while left > 0 {
                    let input = *windows as usize * 4;
                    let x: [__m512i; B] =
                        core::array::from_fn(|b| _mm512_loadu_si512(x.from(b, input).cast()));
                    pair::<B, FAR>(&mut lines, &mut places, &x, &mut sums);
                    if left > 1 {
                        pair::<B, FAR>(&mut lines, &mut places, &x, &mut sums);
                    }
                    left = left.saturating_sub(2);
                    windows = windows.wrapping_add(1);
                }
                for (b, (y, [sum, more])) in y.iter_mut().zip(sums).enumerate() {
                    let x_scale = *job.scales.wrapping_add(b * segments + segment);
                    let product = product(x_scale, &*finish, _mm512_add_epi32(sum, more));
                    if segments == 1 {
                        store(job, b, rows, product);
                        continue;
                    }
                    let y = y.get_unchecked_mut(group);
                    y.write(if segment == 0 { product } else { _mm512_add_ps(y.assume_init(), product) });
                }
                pairs = pairs.wrapping_add(1);
                finish = finish.wrapping_add(1);
            }
        }
    }
    if segments > 1 {
        for (group, rows) in rows.iter().enumerate() {
            for (b, y) in y.iter().enumerate() {
                // SAFETY: as above.
                store(job, b, rows, unsafe { y.get_unchecked(group).assume_init() });
            }
        }
    }
}

/// Two lines of cells, and the places of their activations in the window `x`.
///
/// # Safety
/// AVX-512; the lines and places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn pair<const B: usize, const FAR: bool>(
    lines: &mut *const Line,
    places: &mut *const u32,
    x: &[__m512i; B],
    sums: &mut [[__m512i; 2]; B],
) {
    // SAFETY: the caller's word. What is asked for ahead need not exist.
    unsafe {
        let both = _mm512_set1_epi32(**places as i32);
        for line in 0..2 {
            if FAR {
                _mm_prefetch::<_MM_HINT_T0>(lines.wrapping_add(AHEAD).cast());
            }
            let place = _mm512_srlv_epi32(both, _mm512_load_si512(SHIFTS.0[line].as_ptr().cast()));
            let weights = _mm512_load_si512(lines.cast());
            for (x, sums) in x.iter().zip(sums.iter_mut()) {
                sums[line] = _mm512_dpbusd_epi32(sums[line], _mm512_permutexvar_epi32(place, *x), weights);
            }
            *lines = lines.wrapping_add(1);
        }
        *places = places.wrapping_add(1);
    }
}

/// Outputs of a group's lanes at position `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
fn store(job: &Job<'_>, b: usize, rows: &[u32; LANES], y: __m512) {
    let lanes: [__m128; LANES] = [
        _mm512_castps512_ps128(y),
        _mm512_extractf32x4_ps::<1>(y),
        _mm512_extractf32x4_ps::<2>(y),
        _mm512_extractf32x4_ps::<3>(y),
    ];
    for (row, y) in rows.iter().zip(lanes) {
        if let Some(outputs) = job.outputs_of(b, *row) {
            // SAFETY: the job has these outputs.
            unsafe { _mm_storeu_ps(outputs, y) };
        }
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

#[repr(C, align(64))]
struct Shifts([[i32; 16]; 2]);

/// Where each lane's place is among those of a pair, for the first and the second line.
static SHIFTS: Shifts = {
    let mut shifts = [[0; 16]; 2];
    let mut i = 0;
    while i < 32 {
        shifts[i / 16][i % 16] = ((i / 16 * LANES + i % 16 / TILE_OUTPUTS) * PLACE_BITS as usize) as i32;
        i += 1;
    }
    Shifts(shifts)
};
