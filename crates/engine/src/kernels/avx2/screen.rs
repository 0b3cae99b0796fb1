//! Bounds of row-blocks, from half of each weight.

use core::arch::x86_64::*;
use core::ops::Range;

use super::prepacked::HALVES;
use super::sums::Sums;
use crate::kernels::prepacked::{AHEAD, BUNDLE, DOUBT, LANES, LEAST_DOUBT, LINE_INPUTS, Screen, Screened};

/// Lines whose sums fit an i16: each adds at most 2 · 2 · 15 · 128.
const LINES: usize = 4;

/// [`screen`](crate::kernels::Compute::screen).
#[target_feature(enable = "avx2,bmi1,popcnt")]
pub(super) fn screen<S: Sums>(
    screen: &Screen,
    bundles: Range<usize>,
    x: &Screened<'_>,
    bounds: &mut [f32],
) -> bool {
    let Some(mut lines) = screen.begin(&bundles, x, bounds) else { return false };
    let (half, ones) = (_mm256_set1_epi8(0x0F), _mm256_set1_epi16(1));
    let (doubt, least, sign) = (_mm256_set1_ps(DOUBT), _mm256_set1_ps(LEAST_DOUBT), _mm256_set1_ps(-0.0));
    let upper = _mm256_set1_epi32(0xFFFF << 16);
    for bounds in bounds.chunks_mut(BUNDLE * LANES) {
        let mut most = [_mm256_setzero_ps(); BUNDLE * HALVES];
        for (values, (start, scale, length)) in x.segments() {
            let mut sums = [_mm256_set1_epi32(start); BUNDLE * HALVES];
            for x in values.as_chunks::<LINE_INPUTS>().0.chunks(LINES) {
                for (part, sum) in sums.iter_mut().enumerate() {
                    let mut pairs = _mm256_setzero_si256();
                    for (line, x) in x.iter().enumerate() {
                        let four = |x: [i8; 4]| _mm256_set1_epi32(i32::from_ne_bytes(x.map(|x| x as u8)));
                        // SAFETY: for each segment of a bundle, a line for each group and eight inputs.
                        let weights = unsafe {
                            let line = lines.wrapping_add(line * BUNDLE).cast::<__m256i>();
                            if part % HALVES == 0 {
                                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(part + AHEAD * HALVES).cast());
                            }
                            _mm256_load_si256(line.wrapping_add(part))
                        };
                        let [low, high] = [[x[0], x[1], x[2], x[3]], [x[4], x[5], x[6], x[7]]].map(four);
                        let lower = _mm256_and_si256(weights, half);
                        let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(weights), half);
                        if S::ANY {
                            *sum = S::add_bytes(S::add_bytes(*sum, lower, low), upper, high);
                        } else {
                            let products = _mm256_maddubs_epi16(lower, low);
                            let products = _mm256_add_epi16(products, _mm256_maddubs_epi16(upper, high));
                            pairs = _mm256_add_epi16(pairs, products);
                        }
                    }
                    if !S::ANY {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                    }
                }
                lines = lines.wrapping_add(x.len() * BUNDLE);
            }
            for (part, (sum, most)) in sums.into_iter().zip(&mut most).enumerate() {
                // SAFETY: for each segment of a bundle, the rest for each group.
                let rest = unsafe { _mm256_load_si256(lines.cast::<__m256i>().wrapping_add(part)) };
                let scales = _mm256_castsi256_ps(_mm256_and_si256(rest, upper));
                let lengths = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(rest));
                let scales = _mm256_mul_ps(_mm256_set1_ps(scale), scales);
                let about = _mm256_mul_ps(scales, _mm256_cvtepi32_ps(_mm256_slli_epi32::<4>(sum)));
                let bound = _mm256_mul_ps(lengths, _mm256_set1_ps(length));
                let bound = _mm256_add_ps(_mm256_add_ps(bound, about), least);
                let doubt = _mm256_mul_ps(_mm256_andnot_ps(sign, about), doubt);
                *most = _mm256_add_ps(*most, _mm256_add_ps(bound, doubt));
            }
            lines = lines.wrapping_add(BUNDLE);
        }
        for (bounds, most) in bounds.chunks_mut(LANES / HALVES).zip(most) {
            // A lane is a row-block.
            let most = _mm256_max_ps(most, _mm256_permute_ps::<0b10_11_00_01>(most));
            let most = _mm256_max_ps(most, _mm256_permute_ps::<0b01_00_11_10>(most));
            let both = [_mm256_castps256_ps128(most), _mm256_extractf128_ps::<1>(most)];
            for (bound, most) in bounds.iter_mut().zip(both) {
                *bound = _mm_cvtss_f32(most);
            }
        }
    }
    true
}
