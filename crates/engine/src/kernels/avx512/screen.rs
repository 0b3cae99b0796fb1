//! Bounds of row-blocks, from half of each weight.

use core::arch::x86_64::*;
use core::ops::Range;

use crate::kernels::prepacked::{AHEAD, BUNDLE, DOUBT, LANES, LEAST_DOUBT, LINE_INPUTS, Screen, Screened};

/// [`screen`](crate::kernels::Compute::screen).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
pub(super) fn screen(screen: &Screen, bundles: Range<usize>, x: &Screened<'_>, bounds: &mut [f32]) -> bool {
    let Some(mut lines) = screen.begin(&bundles, x, bounds) else { return false };
    let half = _mm512_set1_epi8(0x0F);
    let (doubt, least) = (_mm512_set1_ps(DOUBT), _mm512_set1_ps(LEAST_DOUBT));
    let upper = _mm512_set1_epi32(0xFFFF << 16);
    let by_group = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for bounds in bounds.chunks_mut(BUNDLE * LANES) {
        let mut most = [_mm512_setzero_ps(); BUNDLE];
        for (values, (start, scale, length)) in x.segments() {
            let mut sums = [_mm512_set1_epi32(start); BUNDLE];
            for x in values.as_chunks::<LINE_INPUTS>().0 {
                let four = |x: [i8; 4]| _mm512_set1_epi32(i32::from_ne_bytes(x.map(|x| x as u8)));
                let [low, high] = [[x[0], x[1], x[2], x[3]], [x[4], x[5], x[6], x[7]]].map(four);
                for sum in &mut sums {
                    // SAFETY: for each segment of a bundle, a line for each group and eight inputs.
                    let weights = unsafe { _mm512_load_si512(lines.cast()) };
                    _mm_prefetch::<_MM_HINT_T0>(lines.wrapping_add(AHEAD).cast());
                    lines = lines.wrapping_add(1);
                    *sum = _mm512_dpbusd_epi32(*sum, _mm512_and_si512(weights, half), low);
                    let weights = _mm512_and_si512(_mm512_srli_epi16::<4>(weights), half);
                    *sum = _mm512_dpbusd_epi32(*sum, weights, high);
                }
            }
            for (sum, most) in sums.into_iter().zip(&mut most) {
                // SAFETY: for each segment of a bundle, the rest for each group.
                let rest = unsafe { _mm512_load_si512(lines.cast()) };
                lines = lines.wrapping_add(1);
                let scales = _mm512_castsi512_ps(_mm512_and_si512(rest, upper));
                let lengths = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(rest));
                let scales = _mm512_mul_ps(_mm512_set1_ps(scale), scales);
                let about = _mm512_mul_ps(scales, _mm512_cvtepi32_ps(_mm512_slli_epi32::<4>(sum)));
                let bound = _mm512_fmadd_ps(lengths, _mm512_set1_ps(length), _mm512_add_ps(about, least));
                *most = _mm512_add_ps(*most, _mm512_fmadd_ps(_mm512_abs_ps(about), doubt, bound));
            }
        }
        // A lane is a row-block: its largest four times over, then a group's in each of the four places.
        let [a, b, c, d] = most.map(|most| {
            let most = _mm512_max_ps(most, _mm512_permute_ps::<0b10_11_00_01>(most));
            _mm512_max_ps(most, _mm512_permute_ps::<0b01_00_11_10>(most))
        });
        let (ab, cd) = (_mm512_mask_blend_ps(0xAAAA, a, b), _mm512_mask_blend_ps(0xAAAA, c, d));
        let most = _mm512_permutexvar_ps(by_group, _mm512_mask_blend_ps(0xCCCC, ab, cd));
        let there = ((1u32 << bounds.len()) - 1) as u16;
        // SAFETY: as many row-blocks as the mask has ones.
        unsafe { _mm512_mask_storeu_ps(bounds.as_mut_ptr(), there, most) };
    }
    true
}
