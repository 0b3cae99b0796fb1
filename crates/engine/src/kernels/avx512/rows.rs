//! Whole row-blocks of a matrix, four at once.

use core::arch::x86_64::*;

use pageformer_card::matrix::{RECORD_BYTES, TILE_OUTPUTS, TILES_PER_GROUP};
use pageformer_card::{CELL_BYTES, MatrixDims, Page};

use super::{dense::dense, sparse::sparse};
use crate::kernels::{GroupProduct, group};

/// Bytes of a register.
pub(super) const REGISTER: usize = 64;
/// Cells of a register.
pub(super) const CELLS: usize = REGISTER / CELL_BYTES;
/// How many bytes before they are used cells are asked for: a model that is larger than the cache is as fast as
/// memory is, and the processor's own guesses stop at pages of 4 KiB.
pub(super) const AHEAD: usize = 8192;
/// Row-blocks at once.
pub(super) const ROWS: usize = 4;

/// Takes whole row-blocks, as long as the group and `cells` have all of their tiles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
pub(super) fn multiply(product: &mut GroupProduct<'_>, cells: &mut &[u8]) {
    let p = product;
    let left = (p.tiles - p.next) as u32 / p.segments as u32;
    let left = left as usize;
    let enough = p.batch > 0
        && p.tiles <= TILES_PER_GROUP
        && p.x.len() >= p.batch * p.x_stride
        && p.x_scales.len() >= p.batch * p.segments
        && p.y.len() >= (p.batch - 1) * p.y_stride + p.row + left * TILE_OUTPUTS;
    if !enough || left == 0 {
        return;
    }
    // SAFETY: `enough` says that `x`, `x_scales` and `y` are long enough; the mask page has 32 records; `rows` that `cells` are.
    let (rows, bytes) = if nothing_is_missing(&p.dims, p.group, p.mask_page, p.next) {
        let row_bytes = p.x_stride * TILE_OUTPUTS;
        let rows = if cells.len() >= left * row_bytes { left } else { cells.len() / row_bytes };
        for (first, rows) in fours(rows) {
            unsafe { dense(p, first, cells.as_ptr().add(first * row_bytes), rows) };
        }
        (rows, rows * row_bytes)
    } else {
        let mut before = [0; TILES_PER_GROUP + 1];
        let mut kept = 0;
        // All 32 records, used or not: that takes less time than to count them.
        for (record, before) in p.mask_page.as_chunks::<RECORD_BYTES>().0.iter().zip(&mut before) {
            *before = kept;
            kept += mask_of(record).count_ones() as usize * CELL_BYTES;
        }
        before[TILES_PER_GROUP] = kept;
        let from = before[p.next];
        for before in &mut before {
            *before = before.wrapping_sub(from);
        }
        let end = |rows: usize| before[p.next + rows * p.segments];
        let mut rows = left;
        while end(rows) > cells.len() {
            rows -= 1;
        }
        let bytes = end(rows);
        // How many registers the cells for 64 inputs fill varies, and the processor's guess is often wrong. With a quarter more
        // than on average in any case, it seldom is.
        let all = (p.x_stride * TILE_OUTPUTS * left) as u32;
        let least = ((5 * end(left)) as u32).div_ceil(all);
        for (first, rows) in fours(rows) {
            unsafe { sparse(p, first, cells, &before, rows, least) };
        }
        (rows, bytes)
    };
    p.next += rows * p.segments;
    p.row += rows * TILE_OUTPUTS;
    *cells = cells.get(bytes..).unwrap_or(&[]);
}

/// `rows` in two parts, each with its first: as many fours as there are, and what is left.
fn fours(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let whole = rows / ROWS * ROWS;
    [(0, whole), (whole, rows - whole)].into_iter().filter(|(_, rows)| *rows > 0)
}

/// The mask of a tile's record.
#[inline(always)]
fn mask_of(record: &[u8]) -> u64 {
    record.get(8..16).and_then(|mask| mask.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Whether no tile of a group from number `first` on misses a cell.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
pub(super) fn nothing_is_missing(dims: &MatrixDims, group: u32, mask_page: &Page, first: usize) -> bool {
    let segments = dims.segments();
    let tiles = dims.tiles_in_group(group) as usize;
    let records = mask_page.get(first * RECORD_BYTES..tiles * RECORD_BYTES).unwrap_or(&[]);
    let last = dims.full_mask(segments - 1);
    if segments > 1 {
        if tiles > first + 1
            && mask_of(records) & mask_of(records.get(RECORD_BYTES..).unwrap_or(&[])) & last != last
        {
            return false;
        }
        // A group of such tiles has cells enough for this to take next to no time.
        let mut segment = (group * TILES_PER_GROUP as u32 + first as u32) % segments;
        let mut missing = 0;
        for record in records.chunks_exact(RECORD_BYTES) {
            segment += 1;
            missing |= mask_of(record) ^ if segment == segments { last } else { u64::MAX };
            segment = if segment == segments { 0 } else { segment };
        }
        return missing == 0;
    }
    // Four records a register; every other number in it is a mask.
    let (full, mut missing) = (_mm512_set1_epi64(last as i64), 0);
    for four in records.chunks(REGISTER) {
        let masks = (0xAA & ((1u32 << (four.len() / 8)) - 1)) as u8;
        // SAFETY: only what the mask says is read.
        let four = unsafe { _mm512_maskz_loadu_epi64(masks, four.as_ptr().cast()) };
        missing |= _mm512_mask_cmpneq_epi64_mask(masks, four, full);
    }
    missing == 0
}

/// [`kept_cells`](crate::kernels::Compute::kept_cells).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
pub(super) fn kept_cells(dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
    let (segments, tiles) = (dims.segments(), dims.tiles_in_group(group) as usize);
    if segments == 1 && nothing_is_missing(dims, group, mask_page, 0) {
        return Some(tiles * dims.cells_in_tile(0) as usize);
    }
    group::kept_cells(dims, group, mask_page)
}

/// Activation `4c..4c + 4` of 16 to the 4 outputs of cell `c`, from each of the four parts of 64.
pub(super) const SPREAD: [[i32; 16]; 4] = {
    let mut spread = [[0; 16]; 4];
    let mut i = 0;
    while i < 64 {
        spread[i / 16][i % 16] = (i / 4) as i32;
        i += 1;
    }
    spread
};

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn flip() -> __m512i {
    _mm512_set1_epi8(-128)
}

/// Four registers whose 128-bit parts are to be added, each: `[a, b, c, d]`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn add_parts([a, b, c, d]: [__m512i; ROWS]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
    let cd = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
    _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xDD>(ab, cd))
}

/// Tiles before each of four row-blocks. Missing rows are taken for the last, and not stored.
pub(super) fn row_tiles(rows: usize, segments: usize) -> [usize; ROWS] {
    [0, 1, 2, 3].map(|row: usize| row.min(rows - 1) * segments)
}

/// Sums of four tiles, times the scales of activations and weights.
///
/// # Safety
/// AVX-512; the records.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn scaled(sums: __m512i, x_scale: f32, records: [*const u8; ROWS]) -> __m512 {
    // SAFETY: a record begins with 4 bf16, 8 bytes.
    let [a, b, c, d] = records.map(|record| unsafe { _mm_loadl_epi64(record.cast()) });
    let scales = _mm256_set_m128i(_mm_unpacklo_epi64(c, d), _mm_unpacklo_epi64(a, b));
    let scales = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(scales)));
    _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(x_scale), scales), _mm512_cvtepi32_ps(sums))
}
