//! Row-blocks none of whose cells is missing.

use core::arch::x86_64::*;

use pageformer_card::matrix::{RECORD_BYTES, TILE_INPUTS, TILE_OUTPUTS};

use super::rows::{AHEAD, REGISTER, ROWS, SPREAD, add_parts, flip, row_tiles, scaled};
use crate::kernels::GroupProduct;

/// `rows` row-blocks from the `first` of those that are next, none of whose cells is missing: fours, or fewer than four.
///
/// # Safety
/// AVX-512; `x`, `x_scales`, `y` and `w` have what is used of them, the mask page all records.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn dense(p: &mut GroupProduct<'_>, first: usize, mut w: *const u8, rows: usize) {
    // Missing rows are taken for the last, and not stored.
    let (row_bytes, row_records) = (p.x_stride * TILE_OUTPUTS, p.segments * RECORD_BYTES);
    let row = row_tiles(rows, 1);
    let stored = ((1u32 << (rows.min(ROWS) * TILE_OUTPUTS)) - 1) as u16;
    let mut records = p.mask_page.as_ptr().wrapping_add(p.next * RECORD_BYTES + first * row_records);
    // SAFETY: the caller's word for all that is read; `y` is written where it has these rows.
    unsafe {
        let mut y = p.y.as_mut_ptr().add(p.row + first * TILE_OUTPUTS);
        for _ in 0..rows.div_ceil(ROWS) {
            for b in 0..p.batch {
                let mut sum = _mm512_setzero_ps();
                for segment in 0..p.segments {
                    let from = segment * TILE_INPUTS;
                    let inputs = (p.x_stride - from).min(TILE_INPUTS);
                    let tile = w.add(from * TILE_OUTPUTS);
                    let x = p.x.as_ptr().add(b * p.x_stride + from);
                    let ahead = tile.wrapping_add(from * (ROWS - 1) * TILE_OUTPUTS + AHEAD);
                    let sums = dense_tiles(tile, row.map(|row| row * row_bytes), ahead, x, inputs);
                    let x_scale = *p.x_scales.get_unchecked(b * p.segments + segment);
                    let records = row.map(|row| records.add(row * row_records + segment * RECORD_BYTES));
                    let product = scaled(sums, x_scale, records);
                    sum = if segment == 0 { product } else { _mm512_add_ps(sum, product) };
                }
                _mm512_mask_storeu_ps(y.add(b * p.y_stride), stored, sum);
            }
            y = y.wrapping_add(ROWS * TILE_OUTPUTS);
            w = w.wrapping_add(ROWS * row_bytes);
            records = records.wrapping_add(ROWS * row_records);
        }
    }
}

/// The sums of four tiles, 4 outputs of each. What is at `ahead` is asked for; it need not exist.
///
/// # Safety
/// AVX-512; each tile has `inputs * 4` bytes, `x` has `inputs`, a multiple of 4.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn dense_tiles(
    mut tile: *const u8,
    row: [usize; ROWS],
    mut ahead: *const u8,
    mut x: *const i8,
    inputs: usize,
) -> __m512i {
    let (zero, flip) = (_mm512_setzero_si512(), flip());
    let (mut sums, mut bias) = ([zero; ROWS], zero);
    let end = x.wrapping_add(inputs);
    // SAFETY: 16 inputs are a register of each row; the last may be shorter, and is read by a mask then.
    unsafe {
        let spread: [__m512i; 4] =
            core::array::from_fn(|part| _mm512_loadu_si512(SPREAD[part].as_ptr().cast()));
        for _ in 0..inputs / REGISTER {
            let four = _mm512_loadu_si512(x.cast());
            for (part, spread) in spread.into_iter().enumerate() {
                let x = _mm512_permutexvar_epi32(spread, four);
                bias = _mm512_dpbusd_epi32(bias, flip, x);
                for (r, row) in row.into_iter().enumerate() {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add((part * ROWS + r) * REGISTER).cast());
                    let w = _mm512_loadu_si512(tile.add(row + part * REGISTER).cast());
                    sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_xor_si512(w, flip), x);
                }
            }
            x = x.add(REGISTER);
            tile = tile.add(REGISTER * TILE_OUTPUTS);
            ahead = ahead.wrapping_add(REGISTER * TILE_OUTPUTS * ROWS);
        }
        while x < end {
            let some = ((1u32 << (end.offset_from(x)).min(16)) - 1) as u16;
            let four = _mm512_castsi128_si512(_mm_maskz_loadu_epi8(some, x));
            let spread_four = _mm512_permutexvar_epi32(spread[0], four);
            bias = _mm512_dpbusd_epi32(bias, flip, spread_four);
            for (r, row) in row.into_iter().enumerate() {
                let w = _mm512_maskz_loadu_epi32(some, tile.add(row).cast());
                sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_xor_si512(w, flip), spread_four);
            }
            x = x.wrapping_add(16);
            tile = tile.wrapping_add(REGISTER);
        }
    }
    add_parts(sums.map(|sum| _mm512_sub_epi32(sum, bias)))
}
