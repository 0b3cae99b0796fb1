//! Row-blocks of which cells are missing, and parts of tiles.

use core::arch::x86_64::*;

use pageformer_card::CELL_BYTES;
use pageformer_card::matrix::{RECORD_BYTES, TILE_INPUTS, TILE_OUTPUTS, TILES_PER_GROUP};

use super::rows::{AHEAD, CELLS, REGISTER, ROWS, SPREAD, add_parts, flip, row_tiles, scaled};
use crate::kernels::GroupProduct;

/// `rows` row-blocks from the `first` of those that are next, of which cells may be missing: fours, or fewer than four. `before` are bytes of the cells before each tile.
///
/// # Safety
/// AVX-512; `x`, `x_scales`, `y` and `cells` have what is used of them, the mask page all records.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
pub(super) unsafe fn sparse(
    p: &mut GroupProduct<'_>,
    first: usize,
    cells: &[u8],
    before: &[usize; TILES_PER_GROUP + 1],
    rows: usize,
    least: u32,
) {
    let row_tiles = row_tiles(rows, p.segments);
    let stored = ((1u32 << (rows.min(ROWS) * TILE_OUTPUTS)) - 1) as u16;
    let mut tile = p.next + first * p.segments;
    // SAFETY: the caller's word for all that is read; `y` is written where it has these rows.
    unsafe {
        let mut y = p.y.as_mut_ptr().add(p.row + first * TILE_OUTPUTS);
        for _ in 0..rows.div_ceil(ROWS) {
            for b in 0..p.batch {
                let mut sum = _mm512_setzero_ps();
                for segment in 0..p.segments {
                    let from = segment * TILE_INPUTS;
                    let inputs = (p.x_stride - from).min(TILE_INPUTS);
                    let tiles = row_tiles.map(|row| tile + row + segment);
                    let x = p.x.as_ptr().add(b * p.x_stride + from);
                    let records = tiles.map(|tile| p.mask_page.as_ptr().add(tile * RECORD_BYTES));
                    let masks = records.map(|record| record.add(8).cast::<u64>().read_unaligned());
                    let at = tiles.map(|tile| *before.get_unchecked(tile));
                    let sums = sparse_tiles(cells, at, masks, x, inputs, least);
                    let x_scale = *p.x_scales.get_unchecked(b * p.segments + segment);
                    let product = scaled(sums, x_scale, records);
                    sum = if segment == 0 { product } else { _mm512_add_ps(sum, product) };
                }
                _mm512_mask_storeu_ps(y.add(b * p.y_stride), stored, sum);
            }
            y = y.wrapping_add(ROWS * TILE_OUTPUTS);
            tile += ROWS * p.segments;
        }
    }
}

/// The sums of four tiles, 4 outputs of each. At least `least` registers of cells are taken for 64 inputs.
///
/// The activations of kept cells are brought together (`vpcompressd`), followed by zeros. So four cells at once meet theirs, as
/// if nothing were missing; and a row with fewer cells than another may go on into what comes behind them.
///
/// # Safety
/// AVX-512; `x` has `inputs` values, 1 to 256, and `cells` all of these cells. `at`, where they begin, ascends.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn sparse_tiles(
    cells: &[u8],
    at: [usize; ROWS],
    mut masks: [u64; ROWS],
    x: *const i8,
    inputs: usize,
    least: u32,
) -> __m512i {
    let (zero, flip) = (_mm512_setzero_si512(), flip());
    let (mut sums, mut bias) = ([zero; ROWS], [zero; ROWS]);
    let end = cells.as_ptr().addr() + cells.len();
    let mut next = at.map(|at| cells.as_ptr().wrapping_add(at));
    // SAFETY: `x` is read by a mask, and so is `w` where `cells` end.
    unsafe {
        for from in (0..inputs).step_by(REGISTER) {
            let here = u64::MAX >> (REGISTER - (inputs - from).min(REGISTER));
            let x = _mm512_maskz_loadu_epi8(here, x.add(from));
            let sums_of_four = _mm512_dpbusd_epi32(zero, flip, x);
            let parts = masks.map(|mask| mask as u16);
            masks = masks.map(|mask| mask >> 16);
            let counts = parts.map(u16::count_ones);
            let kept = parts.map(|part| _mm512_maskz_compress_epi32(part, x));
            for row in 0..ROWS {
                bias[row] = _mm512_mask_add_epi32(bias[row], parts[row], bias[row], sums_of_four);
            }
            let w = next;
            for (next, count) in next.iter_mut().zip(counts) {
                *next = next.wrapping_add(count as usize * CELL_BYTES);
            }
            let [a, b, c, d] = counts;
            let registers = a.max(b).max(c.max(d)).div_ceil(CELLS as u32);
            let registers = registers.max(least.min((inputs - from).div_ceil(16) as u32));
            // The rows lie one behind the other.
            if w[ROWS - 1].addr() + SPREAD.len() * REGISTER <= end {
                for w in w {
                    _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(AHEAD).cast());
                    _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(AHEAD + REGISTER).cast());
                }
                for (register, spread) in SPREAD.iter().enumerate().take(registers as usize) {
                    let spread = _mm512_loadu_si512(spread.as_ptr().cast());
                    for row in 0..ROWS {
                        let at = w[row].add(register * REGISTER);
                        let w = _mm512_loadu_si512(at.cast());
                        let x = _mm512_permutexvar_epi32(spread, kept[row]);
                        sums[row] = _mm512_dpbusd_epi32(sums[row], _mm512_xor_si512(w, flip), x);
                    }
                }
            } else {
                for (register, spread) in SPREAD.iter().enumerate().take(registers as usize) {
                    let spread = _mm512_loadu_si512(spread.as_ptr().cast());
                    for row in 0..ROWS {
                        let w = w[row].wrapping_add(register * REGISTER);
                        let left = end.saturating_sub(w.addr()) / 4;
                        let some = ((1u32 << left.min(16)) - 1) as u16;
                        let w = _mm512_maskz_loadu_epi32(some, w.cast());
                        let x = _mm512_permutexvar_epi32(spread, kept[row]);
                        sums[row] = _mm512_dpbusd_epi32(sums[row], _mm512_xor_si512(w, flip), x);
                    }
                }
            }
        }
    }
    let bias = add_parts(bias);
    let bias = _mm512_add_epi32(bias, _mm512_shuffle_epi32::<0x4E>(bias));
    let bias = _mm512_add_epi32(bias, _mm512_shuffle_epi32::<0xB1>(bias));
    _mm512_sub_epi32(add_parts(sums), bias)
}

/// Adds the products of some cells of a tile, given by a mask, to `sums`: four cells at once.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
pub(super) fn dot(mut cells: &[u8], mut mask: u64, x: &[i8], sums: &mut [i32; TILE_OUTPUTS]) {
    let flip = flip();
    let (mut total, mut bias) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for x in x.chunks(REGISTER) {
        // SAFETY: `x` has 64 values or as many as `here` has ones.
        let x = unsafe {
            let here = u64::MAX >> (REGISTER - x.len());
            _mm512_maskz_loadu_epi8(here, x.as_ptr())
        };
        let kept = _mm512_maskz_compress_epi32(mask as u16, x);
        let count = (mask as u16).count_ones() as usize;
        mask >>= 16;
        let (now, later) = cells.split_at((count * CELL_BYTES).min(cells.len()));
        cells = later;
        for (register, spread) in now.chunks(REGISTER).zip(&SPREAD) {
            // SAFETY: a register or as much of it as `some` has ones; `spread` is one.
            let (w, spread) = unsafe {
                let some = u64::MAX >> (REGISTER - register.len());
                (
                    _mm512_maskz_loadu_epi8(some, register.as_ptr().cast()),
                    _mm512_loadu_si512(spread.as_ptr().cast()),
                )
            };
            // What is beyond the cells meets zeros.
            let x = _mm512_permutexvar_epi32(spread, kept);
            total = _mm512_dpbusd_epi32(total, _mm512_xor_si512(w, flip), x);
            bias = _mm512_dpbusd_epi32(bias, flip, x);
        }
    }
    let total = _mm512_sub_epi32(total, bias);
    let half = _mm256_add_epi32(_mm512_castsi512_si256(total), _mm512_extracti64x4_epi64::<1>(total));
    let total = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
    // SAFETY: `sums` are 16 bytes.
    unsafe {
        let sum = _mm_add_epi32(_mm_loadu_si128(sums.as_ptr().cast()), total);
        _mm_storeu_si128(sums.as_mut_ptr().cast(), sum);
    }
}
