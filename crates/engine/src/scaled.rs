//! The end of a tile: `(s_x · s_w[r]) · sum[r]`, two f32 products an output.
//!
//! Where f32 are computed in software, it is done here in integers at once, to the same bits: a bf16 has 8 significant bits, so
//! that the first product fits a word, and what is known of the operands leaves nothing to look for but where the products begin.

use pageformer_card::bf16;
use pageformer_card::matrix::TILE_OUTPUTS;

use crate::numerics::SOFT;

/// Bits of an f32's fraction.
const FRACTION: u32 = 23;

/// `(x_scale · scales[r]) · sums[r]`, rounded after each product.
#[inline(always)]
pub(crate) fn scaled(
    x_scale: f32,
    scales: &[u16; TILE_OUTPUTS],
    sums: &[i32; TILE_OUTPUTS],
) -> [f32; TILE_OUTPUTS] {
    if SOFT {
        return in_software(x_scale, scales, sums);
    }
    plainly(x_scale, scales, sums)
}

/// By the definition.
#[inline(always)]
fn plainly(x_scale: f32, scales: &[u16; TILE_OUTPUTS], sums: &[i32; TILE_OUTPUTS]) -> [f32; TILE_OUTPUTS] {
    core::array::from_fn(|r| (x_scale * bf16::to_f32(scales[r])) * sums[r] as f32)
}

#[inline(never)]
fn in_software(
    x_scale: f32,
    scales: &[u16; TILE_OUTPUTS],
    sums: &[i32; TILE_OUTPUTS],
) -> [f32; TILE_OUTPUTS] {
    match usual_parts(x_scale) {
        Some(x) if is_usual(scales) => {
            core::array::from_fn(|r| f32::from_bits(usual(x, scales[r].into(), sums[r])))
        }
        _ => plainly(x_scale, scales, sums),
    }
}

/// Whether the weights' scales are usual: positive, and so far from the ends of their range that every product with a usual scale
/// of activations is a normal number. These are from 2⁻⁶³ to 2, that of the activations from 2⁻⁶³ to 2⁶³.
#[inline(always)]
pub(crate) fn is_usual(scales: &[u16; TILE_OUTPUTS]) -> bool {
    // Exponents from 64 to 127: a 0 for the sign, and 01.
    scales.iter().all(|scale| scale >> 13 == 1)
}

/// The significand, with the leading one, and the exponent of a usual scale of activations, the latter less what makes [`usual`]'s
/// result right.
#[inline(always)]
pub(crate) fn usual_parts(x_scale: f32) -> Option<(u32, u32)> {
    let bits = x_scale.to_bits();
    let is_usual = bits.wrapping_sub(64 << FRACTION) < 126 << FRACTION;
    is_usual.then_some((bits & 0x7F_FFFF | 0x80_0000, (bits >> FRACTION).wrapping_sub(96)))
}

/// The bits of `(x · scale) · sum` for usual scales and |sum| < 2²⁴. `kernels/thumb.s` does the same.
// Not inlined four times: flash.
#[inline(never)]
fn usual((x, exponent): (u32, u32), scale: u32, sum: i32) -> u32 {
    if sum == 0 {
        return 0;
    }
    // The exponent as if the first product began with bit 30, the second with bit 23 of its upper word. Less one, since
    // the leading one is added to it in the end.
    let mut exponent = exponent.wrapping_add(scale >> 7);
    let product = x * (scale & 0x7F | 0x80);
    let (first, rest);
    if product >> 31 == 0 {
        (first, rest) = (product >> 7, product << 25);
    } else {
        (first, rest) = (product >> 8, product << 24);
        exponent += 1;
    }
    let first = rounded(first, rest);
    let zeros = sum.unsigned_abs().leading_zeros();
    let product = u64::from(first) * u64::from(sum.unsigned_abs() << zeros);
    let (mut high, mut low) = ((product >> 32) as u32, product as u32);
    if high >> FRACTION == 0 {
        high = high << 1 | low >> 31;
        low <<= 1;
        exponent -= 1;
    }
    ((exponent - zeros) << FRACTION).wrapping_add(rounded(high, low)) | sum as u32 & 1 << 31
}

/// `bits`, behind which are those of `rest`, to the nearest, halves to even.
#[inline(always)]
fn rounded(bits: u32, rest: u32) -> u32 {
    let (beyond_half, up) = rest.overflowing_add(1 << 31);
    let bits = bits + u32::from(up);
    if beyond_half == 0 { bits & !1 } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::array::uniform4;
    use proptest::prelude::*;

    fn is_the_same(
        x_scale: f32,
        scales: [u16; TILE_OUTPUTS],
        sums: [i32; TILE_OUTPUTS],
    ) -> Result<(), TestCaseError> {
        let bits =
            |y: [f32; TILE_OUTPUTS]| y.map(|y| if y.is_nan() { f32::NAN.to_bits() } else { y.to_bits() });
        let (got, want) = (in_software(x_scale, &scales, &sums), plainly(x_scale, &scales, &sums));
        prop_assert_eq!(bits(got), bits(want), "{} · {:x?} · {:?}", x_scale, scales, sums);
        Ok(())
    }

    /// Numbers of at most 23 bits: few ones, runs of ones, and any.
    fn fraction() -> impl Strategy<Value = u32> {
        prop_oneof![
            0u32..1 << 23,
            (0u32..23, 0u32..23).prop_map(|(a, b)| 1 << a | 1 << b),
            (0u32..23, 0u32..23).prop_map(|(a, b)| (1 << a.max(b)) - (1 << a.min(b))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Any bits at all, NaN and negative scales among them.
        #[test]
        fn whatever_the_bits(x in any::<u32>(), scales: [u16; 4], sums in uniform4(-(1 << 23)..1 << 23)) {
            is_the_same(f32::from_bits(x), scales, sums)?;
        }

        /// At the ends of what is usual, and beyond.
        #[test]
        fn at_the_ends(
            exponent in prop_oneof![60u32..70, 184u32..196, Just(0), Just(1), 250u32..256],
            low in fraction(),
            scales in uniform4(prop_oneof![0x1F00u16..0x2100, 0x3F00u16..0x4100, Just(0), Just(1)]),
            sums in uniform4(-3i32..4),
        ) {
            is_the_same(f32::from_bits(exponent << FRACTION | low), scales, sums)?;
        }

        /// What cards have: usual scales, where nothing is left to plain f32, and sums that are hard to round.
        #[test]
        fn the_usual(
            exponent in 64u32..190,
            low in fraction(),
            scales in uniform4(0x2000u16..0x4000),
            sums in uniform4((fraction(), prop_oneof![Just(1), Just(-1)]).prop_map(|(sum, sign)| sign * sum as i32)),
        ) {
            let x_scale = f32::from_bits(exponent << FRACTION | low);
            prop_assert!(usual_parts(x_scale).is_some() && is_usual(&scales));
            is_the_same(x_scale, scales, sums)?;
        }
    }

    /// Every fraction of a bf16 with sums and scales that make the products end in exactly half a unit.
    #[test]
    fn halves() {
        for scale in 0x3F80..0x4000u16 {
            for low in (0..64).flat_map(|n| [n, 0x7F_FFFF - n, 1 << (n % 23)]) {
                let x_scale = f32::from_bits(127 << FRACTION | low);
                for sum in [1, 3, -5, 127, 128, 129, 8191, -(1 << 22), (1 << 22) - 1] {
                    let scales = [scale; TILE_OUTPUTS];
                    let sums = [sum, sum + 1, -sum, sum ^ 0x55];
                    assert_eq!(
                        in_software(x_scale, &scales, &sums).map(f32::to_bits),
                        plainly(x_scale, &scales, &sums).map(f32::to_bits)
                    );
                }
            }
        }
    }
}
