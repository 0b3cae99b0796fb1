//! Two cells at once, for x86-64 with AVX2.
//!
//! `maddubs` multiplies unsigned by signed bytes and adds pairs to i16: weights go in as |w|, activations
//! with the sign of w. Neither exceeds 127, so a pair stays below 32,258 and never saturates. `madd` by ones
//! makes each output's four products one i32.
#![allow(unsafe_code)]

use core::arch::x86_64::*;

use pageformer_card::CELL_BYTES;
use pageformer_card::matrix::TILE_OUTPUTS;

use super::{GroupProduct, Kernel, is_dense};

/// The kernel, if this processor can run it.
pub(super) fn detect() -> Option<Kernel> {
    // CPUID needs no operating system, but whether the upper register halves are saved does: XGETBV.
    #[target_feature(enable = "xsave")]
    fn upper_halves_are_saved() -> bool {
        // SAFETY: only called when CPUID says that XGETBV is enabled.
        unsafe { _xgetbv(0) & 6 == 6 }
    }
    let (features, extended) = (__cpuid(1), __cpuid_count(7, 0));
    let xsave_avx = 1 << 27 | 1 << 28;
    if features.ecx & xsave_avx != xsave_avx || extended.ebx & (1 << 5) == 0 {
        return None;
    }
    // SAFETY: OSXSAVE was tested above.
    let saved = unsafe { upper_halves_are_saved() };
    saved.then_some(Kernel { name: "avx2", run })
}

fn run(product: &mut GroupProduct<'_>, cells: &[u8]) {
    // SAFETY: this kernel is only given out by `detect`.
    unsafe { run_avx2(product, cells) }
}

#[target_feature(enable = "avx2,bmi1,popcnt")]
fn run_avx2(product: &mut GroupProduct<'_>, cells: &[u8]) {
    // SAFETY: `dot` needs AVX2, which this function has.
    product.consume(cells, |cells, mask, x, sums| unsafe { dot(cells, mask, x, sums) });
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
unsafe fn dot(cells: &[u8], mut mask: u64, x: &[i8], sums: &mut [i32; TILE_OUTPUTS]) {
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
            total = add_pair(total, w, spread);
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
            total = add_pair(total, w, spread);
        }
    }
    let rest = pairs.remainder();
    if rest.len() == CELL_BYTES {
        // SAFETY: 16 bytes.
        let w = unsafe { _mm_loadu_si128(rest.as_ptr().cast()) };
        let spread = _mm_set1_epi32(four(x, mask.trailing_zeros() as usize));
        total = add_pair(total, _mm256_zextsi128_si256(w), _mm256_zextsi128_si256(spread));
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
fn add_pair(total: __m256i, w: __m256i, x: __m256i) -> __m256i {
    let products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    _mm256_add_epi32(total, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
}
