//! Bounds of outputs, from half of each weight.

use core::arch::x86_64::*;
use core::ops::Range;

use super::prepacked::HALVES;
use crate::kernels::prepacked::{BUNDLE, DOUBT, LEAST_DOUBT, LINE_INPUTS, OUTPUTS, Screen, Screened};

/// Lines whose sums fit an i16: each adds at most 2 · 2 · 15 · 128.
const LINES: usize = 4;

/// [`screen`](crate::kernels::Compute::screen).
#[target_feature(enable = "avx2,bmi1,popcnt")]
pub(super) fn screen(screen: &Screen, bundles: Range<usize>, x: &Screened<'_>, bounds: &mut [f32]) -> bool {
    let Some((mut lines, mut rests)) = screen.begin(&bundles, x, bounds) else { return false };
    let (half, ones) = (_mm256_set1_epi8(0x0F), _mm256_set1_epi16(1));
    let (doubt, least, sign) = (_mm256_set1_ps(DOUBT), _mm256_set1_ps(LEAST_DOUBT), _mm256_set1_ps(-0.0));
    for bounds in bounds.chunks_mut(BUNDLE * OUTPUTS) {
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
                            _mm256_load_si256(line.wrapping_add(part))
                        };
                        let [low, high] = [[x[0], x[1], x[2], x[3]], [x[4], x[5], x[6], x[7]]].map(four);
                        let products = _mm256_maddubs_epi16(_mm256_and_si256(weights, half), low);
                        let weights = _mm256_and_si256(_mm256_srli_epi16::<4>(weights), half);
                        let products = _mm256_add_epi16(products, _mm256_maddubs_epi16(weights, high));
                        pairs = _mm256_add_epi16(pairs, products);
                    }
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                }
                lines = lines.wrapping_add(x.len() * BUNDLE);
            }
            for (part, (sum, most)) in sums.into_iter().zip(&mut most).enumerate() {
                // SAFETY: for each segment of a bundle, the rest for each group.
                let (scales, lengths) = unsafe {
                    let rest = &*rests.wrapping_add(part / HALVES);
                    let from = part % HALVES * 8;
                    (
                        _mm256_load_ps(rest.scales.as_ptr().add(from)),
                        _mm256_load_ps(rest.lengths.as_ptr().add(from)),
                    )
                };
                let scales = _mm256_mul_ps(_mm256_set1_ps(scale), scales);
                let about = _mm256_mul_ps(scales, _mm256_cvtepi32_ps(sum));
                let bound = _mm256_mul_ps(lengths, _mm256_set1_ps(length));
                let bound = _mm256_add_ps(_mm256_add_ps(bound, about), least);
                let doubt = _mm256_mul_ps(_mm256_andnot_ps(sign, about), doubt);
                *most = _mm256_add_ps(*most, _mm256_add_ps(bound, doubt));
            }
            rests = rests.wrapping_add(BUNDLE);
        }
        for (bounds, most) in bounds.chunks_mut(8).zip(most) {
            let mut all = [0.0; 8];
            // SAFETY: eight floats.
            unsafe { _mm256_storeu_ps(all.as_mut_ptr(), most) };
            bounds.copy_from_slice(&all[..bounds.len()]);
        }
    }
    true
}
