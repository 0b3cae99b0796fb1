//! Row-blocks of which cells are missing.
//!
//! The activations of kept cells are brought together first, so that then two cells at once meet theirs, as if nothing were
//! missing. Where each of eight goes is looked up by eight bits of the mask.

use core::arch::x86_64::*;
use core::mem::MaybeUninit;

use pageformer_card::CELL_BYTES;
use pageformer_card::matrix::{RECORD_BYTES, TILE_INPUTS, TILE_OUTPUTS, TILES_PER_GROUP};

use super::sums::Sums;
use super::{AHEAD, add_pair, spread};
use crate::kernels::GroupProduct;

/// The places of the ones of each byte, then zeros.
const PLACES: [[u8; 8]; 256] = {
    let mut places = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut ones) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                places[byte][ones] = bit as u8;
                ones += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    places
};

/// Activations of the kept cells of a tile, 4 each: 64 at most, and what is written beyond.
type Kept = MaybeUninit<[i32; 64 + 8]>;

/// Takes whole row-blocks, as long as the group and `cells` have all of their tiles.
#[inline(never)]
#[target_feature(enable = "avx2,bmi1,popcnt")]
pub(super) fn rows<S: Sums>(product: &mut GroupProduct<'_>, cells: &mut &[u8]) {
    let p = product;
    let left = (p.tiles - p.next) / p.segments;
    let enough = left > 0
        && p.tiles <= TILES_PER_GROUP
        && p.x.len() >= p.batch * p.x_stride
        && p.x_scales.len() >= p.batch * p.segments
        && p.batch > 0
        && p.y.len() >= (p.batch - 1) * p.y_stride + p.row + left * TILE_OUTPUTS;
    if !enough {
        return;
    }
    let tiles = p.next..p.next + left * p.segments;
    let Some(records) = p.mask_page.get(tiles.start * RECORD_BYTES..tiles.end * RECORD_BYTES) else { return };
    // How many rows `cells` have whole.
    let (mut rows, mut bytes) = (0, 0);
    for row in records.chunks_exact(p.segments * RECORD_BYTES) {
        let mut more = 0;
        for (segment, record) in (0..).zip(row.chunks_exact(RECORD_BYTES)) {
            let mask = mask_of(record);
            if mask & !p.dims.full_mask(segment) != 0 {
                return;
            }
            more += mask.count_ones() as usize * CELL_BYTES;
        }
        if bytes + more > cells.len() {
            break;
        }
        (rows, bytes) = (rows + 1, bytes + more);
    }
    let mut kept = [const { Kept::uninit() }; TILES_PER_GROUP];
    for b in 0..p.batch {
        // All tiles first: what is read soon after it was written in other pieces makes the processor wait.
        let tiles = records.chunks_exact(RECORD_BYTES).take(rows * p.segments);
        let mut segment = 0;
        for (record, kept) in tiles.zip(&mut kept) {
            let from = b * p.x_stride + segment * TILE_INPUTS;
            let to = (from + TILE_INPUTS).min((b + 1) * p.x_stride);
            segment = if segment + 1 == p.segments { 0 } else { segment + 1 };
            compact(mask_of(record), p.x.get(from..to).unwrap_or(&[]), kept);
        }
        let mut tile = cells.as_ptr();
        for row in 0..rows {
            let mut y = _mm_setzero_ps();
            for segment in 0..p.segments {
                // SAFETY: `bytes` says that there are so many cells; a record begins with 4 bf16; `enough` says the rest.
                unsafe {
                    let number = row * p.segments + segment;
                    let record = records.get_unchecked(number * RECORD_BYTES..(number + 1) * RECORD_BYTES);
                    let n = mask_of(record).count_ones() as usize;
                    let sums = _mm_cvtepi32_ps(products::<S>(tile, kept.get_unchecked(number), n));
                    let scales =
                        _mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64(record.as_ptr().cast())), 16);
                    let x_scale = _mm_set1_ps(*p.x_scales.get_unchecked(b * p.segments + segment));
                    let product = _mm_mul_ps(_mm_mul_ps(x_scale, _mm_castsi128_ps(scales)), sums);
                    y = if segment == 0 { product } else { _mm_add_ps(y, product) };
                    tile = tile.add(n * CELL_BYTES);
                }
            }
            // SAFETY: by `enough`.
            unsafe { _mm_storeu_ps(p.y.as_mut_ptr().add(b * p.y_stride + p.row + row * TILE_OUTPUTS), y) };
        }
    }
    p.next += rows * p.segments;
    p.row += rows * TILE_OUTPUTS;
    *cells = cells.get(bytes..).unwrap_or(&[]);
}

/// The mask of a tile's record.
#[inline(always)]
fn mask_of(record: &[u8]) -> u64 {
    record.get(8..16).and_then(|mask| mask.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// The activations of the cells in `mask`, side by side.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn compact(mut mask: u64, x: &[i8], kept: &mut Kept) {
    let mut written = 0;
    for eight in x.chunks(32) {
        let here = (mask & 0xFF) as usize;
        mask >>= 8;
        let mut padded = [0; 32];
        let eight = if eight.len() == 32 {
            eight
        } else {
            padded[..eight.len()].copy_from_slice(eight);
            &padded
        };
        // SAFETY: 32 activations, 8 places; at most 56 were written before.
        unsafe {
            let places = _mm256_cvtepu8_epi32(_mm_loadl_epi64(PLACES.as_ptr().add(here).cast()));
            let eight = _mm256_permutevar8x32_epi32(_mm256_loadu_si256(eight.as_ptr().cast()), places);
            _mm256_storeu_si256(kept.as_mut_ptr().cast::<i32>().add(written).cast(), eight);
        }
        written += here.count_ones() as usize;
    }
}

/// The products of `n` cells with the first `n` of `kept`: 4 outputs.
///
/// # Safety
/// AVX2; so many cells, at most 64; so many activations were written.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn products<S: Sums>(cells: *const u8, kept: &Kept, n: usize) -> __m128i {
    let mut total = _mm256_setzero_si256();
    let (spread, x) = (spread(), kept.as_ptr().cast::<i32>());
    // SAFETY: two cells are 32 bytes, one is 16.
    unsafe {
        for pair in 0..n / 2 {
            let cells = cells.add(pair * 2 * CELL_BYTES);
            _mm_prefetch(cells.wrapping_add(AHEAD).cast(), _MM_HINT_T0);
            let x = _mm256_set1_epi64x(x.add(pair * 2).cast::<i64>().read_unaligned());
            total = add_pair::<S>(total, _mm256_loadu_si256(cells.cast()), _mm256_shuffle_epi8(x, spread));
        }
        if n % 2 == 1 {
            let w = _mm_loadu_si128(cells.add((n - 1) * CELL_BYTES).cast());
            total = add_pair::<S>(total, _mm256_zextsi128_si256(w), _mm256_set1_epi32(*x.add(n - 1)));
        }
    }
    _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1))
}
