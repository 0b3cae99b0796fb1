//! 16 products at once, for 64-bit Arm: `sdot` where the processor has it, otherwise widening multiplications.
//!
//! A cell is just what `sdot` takes: four inputs of four outputs. Everything but the matrices is the shared source, which
//! compiles to NEON by itself, since every such processor has it.
#![allow(unsafe_code)]

use core::arch::aarch64::*;

use pageformer_card::matrix::TILE_OUTPUTS;
use pageformer_card::{CELL_BYTES, MatrixDims, Page};

use super::group::{is_dense, kept_cells};
use super::{Compute, GroupProduct, Head, Kernel, Scratch, shared_source};
use crate::attention::Plain;

/// The kernel with what every processor has.
struct Neon;

/// The kernel with `sdot`. Only [`detect`] gives it out.
struct Dot;

impl Compute for Neon {
    fn multiply(&self, product: &mut GroupProduct<'_>, cells: &[u8]) {
        product.consume(cells, |cells, mask, x, sums| {
            let add = |sums: [int32x4_t; 2], w, x: &[i8; 16], _| {
                // SAFETY: NEON, which every processor of this target has.
                unsafe { add_cell(sums, w, vld1q_s8(x.as_ptr())) }
            };
            // SAFETY: the same.
            unsafe {
                let [low, high] = tile(cells, mask, x, [vdupq_n_s32(0); 2], add);
                store(sums, vpaddq_s32(low, high));
            }
        });
    }

    fn kept_cells(&self, dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
        kept_cells(dims, group, mask_page)
    }

    shared_source! { Plain }
}

impl Compute for Dot {
    fn multiply(&self, product: &mut GroupProduct<'_>, cells: &[u8]) {
        product.consume(cells, |cells, mask, x, sums| {
            // SAFETY: this kernel is only given out by `detect`.
            unsafe { dot(cells, mask, x, sums) }
        });
    }

    fn kept_cells(&self, dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
        kept_cells(dims, group, mask_page)
    }

    shared_source! { Plain }
}

/// The kernels that this processor can run, the fastest first.
pub(super) fn detect() -> [Option<Kernel>; 2] {
    [has_dot().then_some(Kernel::new("neon-dot", &Dot)), Some(Kernel::new("neon", &Neon))]
}

/// Whether the processor has `sdot`: either it was said at compile time, or the processor says so where it may be asked.
fn has_dot() -> bool {
    #[cfg(all(not(target_feature = "dotprod"), any(target_os = "linux", target_os = "android")))]
    {
        let features: u64;
        // SAFETY: Linux lets programs read this register (since 4.11), whose bits 44 to 47 are DP.
        unsafe {
            core::arch::asm!("mrs {}, ID_AA64ISAR0_EL1", out(reg) features, options(pure, nomem, nostack));
        }
        features >> 44 & 0xF != 0
    }
    #[cfg(not(all(not(target_feature = "dotprod"), any(target_os = "linux", target_os = "android"))))]
    {
        cfg!(target_feature = "dotprod")
    }
}

/// Four inputs of an activation, four times.
#[inline(always)]
fn spread(x: &[i8], j: usize) -> [i8; 16] {
    let four = match x.get(j * 4..j * 4 + 4) {
        Some(four) => [four[0], four[1], four[2], four[3]],
        None => [0; 4],
    };
    core::array::from_fn(|i| four[i % 4])
}

/// Adds up the cells of a tile, given by a mask: `add` takes a cell, its activations, four times, and its place.
///
/// # Safety
/// What `add` asks for.
#[inline(always)]
unsafe fn tile<S>(
    cells: &[u8],
    mut mask: u64,
    x: &[i8],
    mut sums: S,
    add: impl Fn(S, int8x16_t, &[i8; 16], usize) -> S,
) -> S {
    for cell in cells.chunks_exact(CELL_BYTES) {
        let j = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        // SAFETY: a cell has 16 bytes.
        let w = unsafe { vld1q_s8(cell.as_ptr().cast()) };
        sums = add(sums, w, &spread(x, j), j);
    }
    sums
}

/// The products of a cell: pairs of outputs 0 and 1, then of 2 and 3.
#[inline]
#[target_feature(enable = "neon")]
fn add_cell([low, high]: [int32x4_t; 2], w: int8x16_t, x: int8x16_t) -> [int32x4_t; 2] {
    [vpadalq_s16(low, vmull_s8(vget_low_s8(w), vget_low_s8(x))), vpadalq_s16(high, vmull_high_s8(w, x))]
}

/// `sums += more`.
#[inline]
#[target_feature(enable = "neon")]
fn store(sums: &mut [i32; TILE_OUTPUTS], more: int32x4_t) {
    // SAFETY: 16 bytes.
    unsafe { vst1q_s32(sums.as_mut_ptr(), vaddq_s32(vld1q_s32(sums.as_ptr()), more)) };
}

/// `sum[r] += Σ w[r][i] · x[r][i]` of four each.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the processor has it. The intrinsic is not stable yet.
    unsafe {
        core::arch::asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

#[target_feature(enable = "neon,dotprod")]
fn dot(cells: &[u8], mask: u64, x: &[i8], sums: &mut [i32; TILE_OUTPUTS]) {
    if !is_dense(mask) {
        // SAFETY: this function has `sdot`.
        let add = |sum, w, x: &[i8; 16], _| unsafe { sdot(sum, w, vld1q_s8(x.as_ptr())) };
        // SAFETY: the same.
        let total = unsafe { tile(cells, mask, x, vdupq_n_s32(0), add) };
        return store(sums, total);
    }
    // Four cells for 16 activations; four sums, so that none waits for another.
    let mut totals = [vdupq_n_s32(0); 4];
    let mut fours = cells.chunks_exact(4 * CELL_BYTES);
    for (four, x) in (&mut fours).zip(x.chunks_exact(16)) {
        // SAFETY: 64 bytes of cells, 16 activations.
        unsafe {
            let x = vreinterpretq_s32_s8(vld1q_s8(x.as_ptr()));
            let w = four.as_ptr().cast::<i8>();
            let x =
                [vdupq_laneq_s32(x, 0), vdupq_laneq_s32(x, 1), vdupq_laneq_s32(x, 2), vdupq_laneq_s32(x, 3)];
            for (at, (total, x)) in totals.iter_mut().zip(x).enumerate() {
                *total = sdot(*total, vld1q_s8(w.add(at * CELL_BYTES)), vreinterpretq_s8_s32(x));
            }
        }
    }
    let done = cells.len() / (4 * CELL_BYTES) * 4;
    for (j, cell) in (done..).zip(fours.remainder().chunks_exact(CELL_BYTES)) {
        // SAFETY: a cell has 16 bytes.
        unsafe {
            totals[0] = sdot(totals[0], vld1q_s8(cell.as_ptr().cast()), vld1q_s8(spread(x, j).as_ptr()));
        }
    }
    let [a, b, c, d] = totals;
    store(sums, vaddq_s32(vaddq_s32(a, b), vaddq_s32(c, d)));
}
