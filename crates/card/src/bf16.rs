//! bfloat16: the upper half of an f32. Scales are stored in it, rounded **up**, so that a value divided by
//! its scale never exceeds the int8 range.

/// The f32 of a bf16.
#[inline(always)]
pub fn to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// The smallest bf16 that is not less than `value`, which must be finite and not negative.
///
/// Values beyond the largest bf16 become infinity, which every reader rejects.
#[inline(always)]
pub fn round_up(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits >> 16) + u32::from(bits & 0xFFFF != 0)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rounding_up_never_goes_down_and_stays_close(v in 0f32..1e30) {
            let up = to_f32(round_up(v));
            prop_assert!(up >= v);
            prop_assert!(up <= v * (1.0 + 1.0 / 128.0) + 1e-38);
        }
    }

    #[test]
    fn exact_values_stay() {
        for v in [0.0, 1.0, 0.5, 1.5, 384.0] {
            assert_eq!(to_f32(round_up(v)), v);
        }
    }
}
