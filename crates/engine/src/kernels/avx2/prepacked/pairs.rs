//! Pruned matrices without `vpdpbusd`: registers of two cells, whose activations are broadcast from a table.
//!
//! On a Zen 3, a permutation across a register is two operations, of which some keep ports busy that products and signs go through. A broadcast
//! from memory keeps none.

use core::arch::asm;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

use super::super::sums::{Avx2Sums, Sums};
use super::{eight_cells, products};
use crate::kernels::prepacked::{CELL_PAIRS, Cursor, Job, LANES, Line, REACH, Sparse};

/// The activations of all pairs of a segment, those of eight cells after the other; only those that there are, are written.
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
        // What is behind the last cell is met by no weight but 0.
        let eight = |first: usize| {
            let (x, left) = (x.wrapping_add(first * 4), cells.saturating_sub(first));
            // SAFETY: so many there are.
            unsafe { if left < 8 { eight_cells(x, left) } else { _mm256_loadu_si256(x.cast()) } }
        };
        let mut to = self.0.as_mut_ptr().cast::<__m256i>();
        let mut here = eight(0);
        for first in (0..cells).step_by(8) {
            let next = eight(first + 8);
            // Put together from what is there already: activations were written a moment ago, by registers that a load across two of them would wait for.
            let four_behind = _mm256_permute2x128_si256::<0x21>(here, next);
            let behind: [__m256i; REACH] = [
                _mm256_alignr_epi8::<4>(four_behind, here),
                _mm256_alignr_epi8::<8>(four_behind, here),
                _mm256_alignr_epi8::<12>(four_behind, here),
                four_behind,
            ];
            for behind in behind {
                // SAFETY: there is room for the pairs of each eight cells of a segment.
                unsafe {
                    _mm256_store_si256(to, _mm256_unpacklo_epi32(here, behind));
                    _mm256_store_si256(to.add(1), _mm256_unpackhi_epi32(here, behind));
                    to = to.add(2);
                }
            }
            here = next;
        }
    }
}

/// # Safety
/// AVX2; the job has `B` positions.
#[inline(never)]
#[target_feature(enable = "avx2,bmi1,popcnt")]
pub(super) unsafe fn pairs<const B: usize>(job: &Job<'_>, kept: &Sparse) {
    let mut tables = [const { Table([MaybeUninit::uninit(); CELL_PAIRS]) }; B];
    let Cursor { mut lines, pairs, mut counts, outputs, .. } = job.cursor(kept);
    let (groups, mut places) = (job.part.groups, pairs.cast::<u8>());
    // SAFETY: for each segment and group of a part there are a finish and a number of pairs; as many places, of pairs that the segment has, and twice as many
    // lines. The job has a segment's activations at each position.
    unsafe {
        for (segment, outputs) in (0..job.segments).zip(outputs.chunks_exact(groups)) {
            let (x, inputs) = job.segment(segment);
            for (b, table) in tables.iter_mut().enumerate() {
                table.fill(x.wrapping_add(b * job.stride), inputs / 4);
            }
            let x_scales: [f32; B] =
                core::array::from_fn(|b| *job.scales.wrapping_add(b * job.segments + segment));
            for outputs in outputs {
                let finish = lines;
                lines = lines.wrapping_add(1);
                let sums = sums_of(&tables, *counts, &mut places, &mut lines);
                counts = counts.wrapping_add(1);
                for (b, (sums, x_scale)) in sums.into_iter().zip(x_scales).enumerate() {
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
            }
        }
    }
}

/// A group's sums at each position, of `count` pairs a lane, whose places and lines are passed by.
///
/// # Safety
/// AVX2; as many places, of pairs that are in the tables, and registers of weights for each lane.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn sums_of<const B: usize>(
    tables: &[Table; B],
    count: u16,
    places: &mut *const u8,
    lines: &mut *const Line,
) -> [[__m256i; 2]; B] {
    let mut sums = [[_mm256_setzero_si256(); LANES]; B];
    // The middle of two steps' registers, so that a byte says how far off each is.
    let mut middle = lines.cast::<__m256i>().wrapping_add(LANES);
    macro_rules! meet {
        ($($register:literal)*) => {$(
            let weights = _mm256_load_si256(middle.offset($register - LANES as isize));
            let magnitude = _mm256_and_si256(weights, _mm256_set1_epi8(0x7F));
            let place = usize::from(*places.add($register));
            for (table, sums) in tables.iter().zip(&mut sums) {
                let x = _mm256_set1_epi64x((*table.0.as_ptr().add(place)).assume_init());
                let signed;
                // By name, as the compiler would load the weights once, with an operation of its own.
                asm!("vpsignb {}, {}, [{} + {}]", lateout(ymm_reg) signed, in(ymm_reg) x, in(reg) middle,
                    const ($register - LANES as isize) * 32, options(pure, readonly, nostack, preserves_flags));
                sums[$register % LANES] = Avx2Sums::add_bytes(sums[$register % LANES], magnitude, signed);
            }
        )*};
    }
    // SAFETY: the caller's word.
    unsafe {
        for _ in 0..count / 2 {
            meet!(0 1 2 3 4 5 6 7);
            *places = places.wrapping_add(2 * LANES);
            middle = middle.wrapping_add(2 * LANES);
        }
        if count % 2 == 1 {
            meet!(0 1 2 3);
            *places = places.wrapping_add(LANES);
            middle = middle.wrapping_add(LANES);
        }
    }
    *lines = middle.wrapping_sub(LANES).cast();
    // The halves of two lanes' registers, of which the second is turned.
    let both = |a, b| {
        let second = _mm256_shuffle_epi32::<0b10_11_00_01>(_mm256_permute2x128_si256::<0x31>(a, b));
        _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), second)
    };
    sums.map(|[a, b, c, d]| [both(a, b), both(c, d)])
}
