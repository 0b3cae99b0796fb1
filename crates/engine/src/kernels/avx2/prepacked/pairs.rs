//! Pruned matrices without `vpdpbusd`: registers of two cells, whose activations are broadcast from a table.
//!
//! On a Zen 3, a permutation across a register is two operations, of which some keep ports busy that products and signs go through. A broadcast
//! from memory keeps none.

use core::arch::x86_64::*;
use core::mem::MaybeUninit;

use super::super::sums::{Avx2Sums, Sums};
use super::{eight_cells, products};
use crate::kernels::prepacked::{CELL_PAIRS, Cursor, Job, LANES, PAIR_LINES, REACH, Sparse};

/// The activations of all pairs of a segment, those of eight cells after the other; only those that there are, are written. A negative activation
/// is its magnitude with the highest bit set: `vpsignb` does not care, and a mask makes it a magnitude.
#[repr(C, align(32))]
struct Table([MaybeUninit<i64>; CELL_PAIRS]);

impl Table {
    /// The table of `cells` cells.
    ///
    /// # Safety
    /// AVX2; so many activations, no more than a segment has.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,popcnt")]
    unsafe fn fill(&mut self, x: *const i8, cells: usize) {
        let negative = _mm256_set1_epi8(-128);
        let mut to = self.0.as_mut_ptr().cast::<__m256i>();
        for first in (0..cells).step_by(8) {
            let eight_behind = |apart: usize| {
                let (x, left) = (x.wrapping_add((first + apart) * 4), cells - first);
                // SAFETY: so many there are. What is behind the last cell is met by no weight but 0.
                let x = unsafe {
                    if left >= 8 + REACH {
                        _mm256_loadu_si256(x.cast())
                    } else {
                        eight_cells(x, left.saturating_sub(apart))
                    }
                };
                _mm256_or_si256(_mm256_abs_epi8(x), _mm256_and_si256(x, negative))
            };
            let eight = eight_behind(0);
            for apart in 1..=REACH {
                let behind = eight_behind(apart);
                // SAFETY: there is room for the pairs of each eight cells of a segment.
                unsafe {
                    _mm256_store_si256(to, _mm256_unpacklo_epi32(eight, behind));
                    _mm256_store_si256(to.add(1), _mm256_unpackhi_epi32(eight, behind));
                    to = to.add(2);
                }
            }
        }
    }
}

/// # Safety
/// AVX2; the job has `B` positions.
#[inline(never)]
#[target_feature(enable = "avx2,bmi1,popcnt")]
pub(super) unsafe fn pairs<const B: usize>(job: &Job<'_>, kept: &Sparse) {
    let mut tables = [const { Table([MaybeUninit::uninit(); CELL_PAIRS]) }; B];
    let Cursor { mut lines, mut pairs, mut counts, outputs, .. } = job.cursor(kept);
    let groups = job.part.groups;
    // SAFETY: for each segment and group of a part there are a finish and a number of pairs; as many places, of pairs that the segment has, and twice as many
    // lines. The job has a segment's activations at each position.
    unsafe {
        for (segment, outputs) in (0..job.segments).zip(outputs.chunks_exact(groups)) {
            let (x, inputs) = job.segment(segment);
            for (b, table) in tables.iter_mut().enumerate() {
                table.fill(x.wrapping_add(b * job.stride), inputs / 4);
            }
            for outputs in outputs {
                let finish = lines;
                let count = usize::from(*counts);
                lines = lines.wrapping_add(1);
                counts = counts.wrapping_add(1);
                // One position after the other, as registers go: the weights are near the second time.
                for (b, table) in tables.iter().enumerate() {
                    let sums = sums_of(table, count, pairs.cast(), lines.cast());
                    let x_scale = *job.scales.wrapping_add(b * job.segments + segment);
                    let [low, high] = products(x_scale, finish, sums);
                    let y = outputs.map(|output| job.outputs_from(b, output));
                    let mut products = [
                        _mm256_castps256_ps128(low),
                        _mm256_extractf128_ps::<1>(low),
                        _mm256_castps256_ps128(high),
                        _mm256_extractf128_ps::<1>(high),
                    ];
                    if segment > 0 {
                        // All before one is stored: a row-block may be there twice.
                        for (product, y) in products.iter_mut().zip(y) {
                            *product = _mm_add_ps(_mm_loadu_ps(y), *product);
                        }
                    }
                    for (product, y) in products.into_iter().zip(y) {
                        _mm_storeu_ps(y, product);
                    }
                }
                lines = lines.wrapping_add(PAIR_LINES * count);
                pairs = pairs.wrapping_add(count);
            }
        }
    }
}

/// A group's sums, of `count` pairs a lane, at least one.
///
/// # Safety
/// AVX2; as many places, of pairs that are in the table, and registers of weights for each lane.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn sums_of(
    table: &Table,
    count: usize,
    mut places: *const u8,
    mut weights: *const __m256i,
) -> [__m256i; 2] {
    let mut next = || {
        let products = core::array::from_fn(|lane| {
            // SAFETY: the caller's word.
            unsafe {
                let pair = table.0.as_ptr().add(usize::from(*places.add(lane)));
                let x = _mm256_set1_epi64x((*pair).assume_init());
                let signed = _mm256_sign_epi8(_mm256_load_si256(weights.add(lane)), x);
                let magnitude = _mm256_and_si256(x, _mm256_set1_epi8(0x7F));
                Avx2Sums::add_bytes(_mm256_setzero_si256(), magnitude, signed)
            }
        });
        places = places.wrapping_add(LANES);
        weights = weights.wrapping_add(LANES);
        products
    };
    let mut sums: [__m256i; LANES] = next();
    for _ in 1..count {
        for (sum, product) in sums.iter_mut().zip(next()) {
            *sum = _mm256_add_epi32(*sum, product);
        }
    }
    // The halves of two lanes' registers, of which the second is turned.
    let both = |a, b| {
        let second = _mm256_shuffle_epi32::<0b10_11_00_01>(_mm256_permute2x128_si256::<0x31>(a, b));
        _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), second)
    };
    let [a, b, c, d] = sums;
    [both(a, b), both(c, d)]
}
