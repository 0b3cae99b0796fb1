//! 32 products at once, for x86-64 with AVX2.
//!
//! With AVX-VNNI, the one instruction `vpdpbusd` does what three do here.
//!
//! `maddubs` multiplies unsigned by signed bytes and adds pairs to i16: weights go in as |w|, activations with
//! the sign of w. |w| is at most 128 (which no card has, but this kernel must not care) and |x| at most 127, so a
//! pair never saturates. `madd` by ones makes each output's four products one i32.
#![allow(unsafe_code)]

pub(super) mod attention;
#[cfg(feature = "prepack")]
mod prepacked;
mod pruned;
#[cfg(feature = "prepack")]
mod screen;
pub(super) mod sums;

use core::arch::x86_64::*;

use pageformer_card::matrix::{RECORD_BYTES, TILE_INPUTS, TILE_OUTPUTS};
use pageformer_card::{CELL_BYTES, MatrixDims, Page};

use self::sums::{Avx2Sums, Sums, VexSums};
#[cfg(test)]
use self::sums::{EvexSums, SlowSums};
use super::group::is_dense;
#[cfg(feature = "prepack")]
use super::prepacked_source;
use super::x86::Features;
use super::{Compute, GroupProduct, Head, Kernel, Scratch, shared_source};

/// A kernel. Only [`detect`] gives it out, so that a value of it means that the processor has AVX2, BMI1 and
/// POPCNT, and what `$sums` asks for.
macro_rules! kernel {
    ($(#[$attribute:meta])* $name:ident, $sums:ty) => {
        $(#[$attribute])*
        struct $name;

        $(#[$attribute])*
        impl Compute for $name {
            fn multiply(&self, product: &mut GroupProduct<'_>, cells: &[u8]) {
                // SAFETY: this kernel is only given out by `detect`.
                unsafe { multiply::<$sums>(product, cells) }
            }

            fn kept_cells(&self, dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
                #[target_feature(enable = "avx2,bmi1,popcnt")]
                fn kept_cells(dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
                    super::group::kept_cells(dims, group, mask_page)
                }
                // SAFETY: this kernel is only given out by `detect`.
                unsafe { kept_cells(dims, group, mask_page) }
            }

            #[cfg(feature = "prepack")]
            prepacked_source! {
                #[target_feature(enable = "avx2,bmi1,popcnt")]
                prepacked::packing::<$sums>(), prepacked::multiply::<$sums>, screen::screen::<$sums>
            }

            shared_source! { #[target_feature(enable = "avx2,bmi1,popcnt")] attention::By<$sums> }
        }
    };
}

kernel!(Avx2, Avx2Sums);
kernel!(AvxVnni, VexSums);
kernel!(
    #[cfg(test)]
    AvxVnniElsewhere,
    EvexSums
);
kernel!(
    #[cfg(test)]
    AvxVnniNowhere,
    SlowSums
);

/// The kernels of these that this processor can run, the fastest first.
pub(super) fn detect(features: &Features) -> impl Iterator<Item = Kernel> + use<> {
    let vnni = features.avx_vnni.then_some(Kernel::new("avx-vnni", &AvxVnni));
    let avx2 = features.avx2.then_some(Kernel::new("avx2", &Avx2));
    #[cfg(test)]
    let tests = [
        features.avx512_vnni.then_some(Kernel::new("avx-vnni, EVEX", &AvxVnniElsewhere)),
        features.avx2.then_some(Kernel::new("avx-vnni, by AVX2", &AvxVnniNowhere)),
    ];
    #[cfg(not(test))]
    let tests = [];
    [vnni, avx2].into_iter().chain(tests).flatten()
}

/// How many bytes before they are used cells are asked for: a model that is larger than the cache is as fast as
/// memory is, and the processor's own guesses stop at pages of 4 KiB.
const AHEAD: usize = 8192;

#[target_feature(enable = "avx2,bmi1,popcnt")]
fn multiply<S: Sums>(product: &mut GroupProduct<'_>, mut cells: &[u8]) {
    // SAFETY: `dot` needs AVX2, which this function has.
    let dot = |cells: &[u8], mask, x: &[i8], sums: &mut [i32; 4]| unsafe { dot::<S>(cells, mask, x, sums) };
    while product.within_row() {
        if !product.consume_tile(&mut cells, dot) {
            return;
        }
    }
    while whole_rows::<S, 4>(product, &mut cells) || whole_rows::<S, 1>(product, &mut cells) {}
    pruned::rows::<S>(product, &mut cells);
    product.consume(cells, dot);
}

/// The next `ROWS` (4 or 1) row-blocks, if the group and `cells` have all of their tiles and none is pruned; false, and
/// nothing is done, otherwise.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn whole_rows<S: Sums, const ROWS: usize>(product: &mut GroupProduct<'_>, cells: &mut &[u8]) -> bool {
    let p = product;
    let row_bytes = p.x_stride * TILE_OUTPUTS; // 4 outputs × padded inputs
    let tiles = ROWS * p.segments;
    let enough = p.next + tiles <= p.tiles
        && cells.len() >= ROWS * row_bytes
        && p.x.len() >= p.batch * p.x_stride
        && p.x_scales.len() >= p.batch * p.segments
        && p.batch > 0
        && p.y.len() >= (p.batch - 1) * p.y_stride + p.row + ROWS * TILE_OUTPUTS;
    if !enough {
        return false;
    }
    let records = p.mask_page.get(p.next * RECORD_BYTES..(p.next + tiles) * RECORD_BYTES).unwrap_or(&[]);
    let mut missing = 0;
    for row in records.chunks_exact(p.segments * RECORD_BYTES) {
        for (segment, record) in (0..).zip(row.chunks_exact(RECORD_BYTES)) {
            let mask = record.get(8..).and_then(|mask| mask.try_into().ok()).map_or(0, u64::from_le_bytes);
            missing |= mask ^ p.dims.full_mask(segment);
        }
    }
    if missing != 0 || records.is_empty() {
        return false;
    }
    for b in 0..p.batch {
        // SAFETY: `enough` says that every part is as long as is read and written here: `x` has `x_stride` values
        // for each position, and `cells` four rows of as many cells.
        unsafe {
            let x = p.x.as_ptr().add(b * p.x_stride);
            let y = p.y.as_mut_ptr().add(b * p.y_stride + p.row);
            let (mut low, mut high) = (_mm256_setzero_ps(), _mm256_setzero_ps());
            for segment in 0..p.segments {
                let from = segment * TILE_INPUTS;
                let inputs = (p.x_stride - from).min(TILE_INPUTS);
                let tile = cells.as_ptr().add(from * TILE_OUTPUTS);
                let ahead = cells.as_ptr().wrapping_add(from * ROWS * TILE_OUTPUTS + AHEAD);
                let totals = dense_rows::<S, ROWS>(tile, ahead, row_bytes, x.add(from), inputs);
                let x_scale = _mm256_set1_ps(*p.x_scales.get_unchecked(b * p.segments + segment));
                let record = records.as_ptr().add(segment * RECORD_BYTES);
                // A single row-block is taken for both of a pair, and half of it stored.
                let stride = if ROWS == 1 { 0 } else { p.segments * RECORD_BYTES };
                let first = scaled(totals[0], totals[1 % ROWS], x_scale, record, stride);
                let second = scaled(
                    totals[2 % ROWS],
                    totals[3 % ROWS],
                    x_scale,
                    record.add(2 % ROWS * stride),
                    stride,
                );
                (low, high) = match segment {
                    0 => (first, second),
                    _ => (_mm256_add_ps(low, first), _mm256_add_ps(high, second)),
                };
            }
            if ROWS == 1 {
                _mm_storeu_ps(y, _mm256_castps256_ps128(low));
            } else {
                _mm256_storeu_ps(y, low);
                _mm256_storeu_ps(y.add(8), high);
            }
        }
    }
    p.next += tiles;
    p.row += ROWS * TILE_OUTPUTS;
    *cells = cells.get(ROWS * row_bytes..).unwrap_or(&[]);
    true
}

/// The products of `inputs` activations with the cells of `ROWS` rows, `stride` bytes apart. Each total has
/// 4 outputs in either half, yet to be added. What is at `ahead` is asked for; it need not exist.
///
/// # Safety
/// AVX2; each row has `inputs * 4` bytes, `inputs` is a multiple of 4.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn dense_rows<S: Sums, const ROWS: usize>(
    cells: *const u8,
    ahead: *const u8,
    stride: usize,
    x: *const i8,
    inputs: usize,
) -> [__m256i; ROWS] {
    let mut totals = [_mm256_setzero_si256(); ROWS];
    let mut at = 0;
    // SAFETY: 8 inputs are two cells: 32 bytes of each row.
    unsafe {
        while at + 8 <= inputs {
            // 2 lines for the 128 bytes that are used now.
            let later = ahead.wrapping_add(at * ROWS * TILE_OUTPUTS);
            _mm_prefetch(later.cast(), _MM_HINT_T0);
            _mm_prefetch(later.wrapping_add(64).cast(), _MM_HINT_T0);
            let x =
                _mm256_shuffle_epi8(_mm256_set1_epi64x(x.add(at).cast::<i64>().read_unaligned()), spread());
            for (row, total) in totals.iter_mut().enumerate() {
                let w = _mm256_loadu_si256(cells.add(row * stride + at * TILE_OUTPUTS).cast());
                *total = add_pair::<S>(*total, w, x);
            }
            at += 8;
        }
        if at < inputs {
            let x = _mm256_set1_epi32(x.add(at).cast::<i32>().read_unaligned());
            for (row, total) in totals.iter_mut().enumerate() {
                let w = _mm_loadu_si128(cells.add(row * stride + at * TILE_OUTPUTS).cast());
                *total = add_pair::<S>(*total, _mm256_zextsi128_si256(w), x);
            }
        }
    }
    totals
}

/// The first 4 of 8 bytes to the lower half, four times, the others to the upper.
#[inline]
#[target_feature(enable = "avx2")]
fn spread() -> __m256i {
    const FIRST: i32 = 0x0302_0100;
    const SECOND: i32 = 0x0706_0504;
    _mm256_setr_epi32(FIRST, FIRST, FIRST, FIRST, SECOND, SECOND, SECOND, SECOND)
}

/// `(x_scale · scales) · sums` of two tiles, whose records are `stride` bytes apart.
///
/// # Safety
/// AVX2; two records.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn scaled(a: __m256i, b: __m256i, x_scale: __m256, record: *const u8, stride: usize) -> __m256 {
    let sums = _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
    // SAFETY: a record begins with 4 bf16, 8 bytes.
    let scales = unsafe {
        _mm_unpacklo_epi64(_mm_loadl_epi64(record.cast()), _mm_loadl_epi64(record.add(stride).cast()))
    };
    let scales = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(scales), 16));
    _mm256_mul_ps(_mm256_mul_ps(x_scale, scales), _mm256_cvtepi32_ps(sums))
}

/// Activations of inputs `4j..4j + 4`, or zeros beyond the end.
#[inline(always)]
fn four(x: &[i8], j: usize) -> i32 {
    match x.get(j * 4..j * 4 + 4) {
        Some(x) => i32::from_le_bytes([x[0] as u8, x[1] as u8, x[2] as u8, x[3] as u8]),
        None => 0,
    }
}

/// # Safety
/// AVX2.
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn dot<S: Sums>(cells: &[u8], mut mask: u64, x: &[i8], sums: &mut [i32; TILE_OUTPUTS]) {
    let mut total = _mm256_setzero_si256();
    let mut pairs = cells.chunks_exact(2 * CELL_BYTES);
    if is_dense(mask) {
        for (pair, x) in (&mut pairs).zip(x.chunks_exact(8)) {
            // SAFETY: both chunks are as long as what is loaded from them.
            let (w, x) =
                unsafe { (_mm256_loadu_si256(pair.as_ptr().cast()), _mm_loadl_epi64(x.as_ptr().cast())) };
            let spread = _mm256_permutevar8x32_epi32(
                _mm256_castsi128_si256(x),
                _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1),
            );
            total = add_pair::<S>(total, w, spread);
        }
        mask = if pairs.remainder().is_empty() { 0 } else { 1 << (cells.len() / CELL_BYTES - 1) };
    } else {
        for pair in &mut pairs {
            let first = mask.trailing_zeros() as usize;
            mask &= mask.wrapping_sub(1);
            let second = mask.trailing_zeros() as usize;
            mask &= mask.wrapping_sub(1);
            // SAFETY: the chunk is 32 bytes long.
            let w = unsafe { _mm256_loadu_si256(pair.as_ptr().cast()) };
            let spread = _mm256_inserti128_si256(
                _mm256_castsi128_si256(_mm_set1_epi32(four(x, first))),
                _mm_set1_epi32(four(x, second)),
                1,
            );
            total = add_pair::<S>(total, w, spread);
        }
    }
    let rest = pairs.remainder();
    if rest.len() == CELL_BYTES {
        // SAFETY: 16 bytes.
        let w = unsafe { _mm_loadu_si128(rest.as_ptr().cast()) };
        let spread = _mm_set1_epi32(four(x, mask.trailing_zeros() as usize));
        total = add_pair::<S>(total, _mm256_zextsi128_si256(w), _mm256_zextsi128_si256(spread));
    }
    let both = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
    let mut out = [0i32; TILE_OUTPUTS];
    // SAFETY: 16 bytes.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), both) };
    for (sum, add) in sums.iter_mut().zip(out) {
        *sum += add;
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_pair<S: Sums>(total: __m256i, w: __m256i, x: __m256i) -> __m256i {
    S::add_bytes(total, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
}
