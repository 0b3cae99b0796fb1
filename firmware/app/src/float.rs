//! Arithmetic in f32 for processors that have none: the usual case in a third of the instructions of what the compiler
//! brings, to the same bits. The rest (subnormal numbers, infinities, NaN, overflow) goes to the compiler's.
//!
//! The compiler calls these functions by their names in Arm's run-time ABI; it finds them here because its own are weak.

/// Bits of the fraction.
const FRACTION: u32 = 23;
/// The leading one, which is not stored.
const ONE: u32 = 1 << FRACTION;
const SIGN: u32 = 1 << 31;

/// Whether a biased exponent is one of a normal number.
#[inline(always)]
fn is_normal(exponent: u32) -> bool {
    exponent.wrapping_sub(1) < 254
}

/// `a · b` of the bits of two numbers, rounded to nearest, halves to even; `None` unless they and the product are normal
/// or zero.
#[inline(always)]
pub fn product(a: u32, b: u32) -> Option<u32> {
    let (a_exponent, b_exponent) = (a >> FRACTION & 0xFF, b >> FRACTION & 0xFF);
    if !is_normal(a_exponent) || !is_normal(b_exponent) {
        let is_zero = (a << 1 == 0 && b_exponent < 255) || (b << 1 == 0 && a_exponent < 255);
        return is_zero.then_some((a ^ b) & SIGN);
    }
    // 24 · 32 bits: the upper word has the 24 bits of the result, or 23.
    let product = u64::from(a & (ONE - 1) | ONE) * u64::from((b | ONE) << 8);
    let (mut high, mut low) = ((product >> 32) as u32, product as u32);
    let mut exponent = (a_exponent + b_exponent).wrapping_sub(127);
    if high & ONE == 0 {
        high = high << 1 | low >> 31;
        low <<= 1;
        exponent = exponent.wrapping_sub(1);
    }
    // `exponent` is one less than that of the result, because the leading one is added to it. Rounding up may carry into
    // it: at 253 that could be infinity.
    if exponent >= 253 {
        return None;
    }
    let (half, up) = low.overflowing_add(1 << 31);
    let mut bits = (exponent << FRACTION) + high + u32::from(up);
    if half == 0 {
        bits &= !1;
    }
    Some(bits | (a ^ b) & SIGN)
}

/// `a + b` of the bits of two numbers, rounded to nearest, halves to even; `None` unless they and the sum are normal
/// or zero.
#[inline(always)]
pub fn sum(a: u32, b: u32) -> Option<u32> {
    /// Bits behind the result's last: enough to round, since what is shifted out is remembered in the last of them.
    const GUARD: u32 = 7;
    let (a, b) = if a << 1 < b << 1 { (b, a) } else { (a, b) };
    let (a_exponent, b_exponent) = (a >> FRACTION & 0xFF, b >> FRACTION & 0xFF);
    if a_exponent >= 254 || b_exponent == 0 {
        // Two zeros have the sign that they share, or none.
        let all = if a << 1 == 0 { a & b } else { a };
        return (b << 1 == 0 && a_exponent < 255).then_some(all);
    }
    let distance = a_exponent - b_exponent;
    if distance > 25 {
        return Some(a);
    }
    let large = (a & (ONE - 1) | ONE) << GUARD;
    let small = (b & (ONE - 1) | ONE) << GUARD;
    let lost = small & !(u32::MAX << distance);
    let small = small >> distance | u32::from(lost != 0);
    let mut exponent = a_exponent;
    let mut sum;
    if (a ^ b) & SIGN == 0 {
        sum = large + small;
        if sum & SIGN != 0 {
            sum = sum >> 1 | sum & 1;
            exponent += 1;
        }
    } else {
        sum = large - small;
        if sum == 0 {
            return Some(0);
        }
        let shift = sum.leading_zeros() - 1;
        if shift >= exponent {
            return None;
        }
        sum <<= shift;
        exponent -= shift;
    }
    let half = (1 << (GUARD - 1)) - 1 + (sum >> GUARD & 1);
    Some((((exponent - 1) << FRACTION) + ((sum + half) >> GUARD)) | a & SIGN)
}

/// What the compiler calls. Where there is no floating-point unit, f32 travel in the registers of integers.
#[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabi"))]
#[allow(unsafe_code)]
mod calls {
    use super::{SIGN, product, sum};

    unsafe extern "C" {
        safe fn __mulsf3(a: u32, b: u32) -> u32;
        safe fn __addsf3(a: u32, b: u32) -> u32;
    }

    // SAFETY, of all: names and signatures are those of the run-time ABI for the Arm architecture, table 4.
    #[unsafe(no_mangle)]
    extern "C" fn __aeabi_fmul(a: u32, b: u32) -> u32 {
        product(a, b).unwrap_or_else(|| __mulsf3(a, b))
    }

    #[unsafe(no_mangle)]
    extern "C" fn __aeabi_fadd(a: u32, b: u32) -> u32 {
        sum(a, b).unwrap_or_else(|| __addsf3(a, b))
    }

    #[unsafe(no_mangle)]
    extern "C" fn __aeabi_fsub(a: u32, b: u32) -> u32 {
        let b = b ^ SIGN;
        sum(a, b).unwrap_or_else(|| __addsf3(a, b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers that are hard to round: few ones, long runs of ones, and exponents that are close to each other or to the
    /// ends of their range.
    fn number() -> impl Strategy<Value = u32> {
        let exponent = prop_oneof![Just(0), 0u32..=255, 120u32..136, 0u32..4, 251u32..=255];
        let fraction = prop_oneof![
            0u32..ONE,
            Just(0),
            (0u32..24, 0u32..24).prop_map(|(a, b)| 1u32.wrapping_shl(a).wrapping_sub(1 << b) & (ONE - 1)),
            (0u32..24, 0u32..24).prop_map(|(a, b)| (1 << a | 1 << b) & (ONE - 1)),
        ];
        (any::<bool>(), exponent, fraction)
            .prop_map(|(sign, exponent, fraction)| u32::from(sign) << 31 | exponent << FRACTION | fraction)
    }

    fn is_as(got: Option<u32>, want: f32) -> Result<(), TestCaseError> {
        // Whatever is given back is right; what is not is that of a normal number far from the ends.
        if let Some(got) = got {
            prop_assert_eq!(got, want.to_bits());
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        fn same_as_the_processor(a in number(), b in number()) {
            let (x, y) = (f32::from_bits(a), f32::from_bits(b));
            is_as(product(a, b), x * y)?;
            is_as(sum(a, b), x + y)?;
            is_as(sum(a, b ^ SIGN), x - y)?;
        }

        /// The usual case is not left to the compiler's.
        #[test]
        fn ordinary_numbers_are_done_here(a in -1e6f32..1e6, b in -1e6f32..1e6) {
            prop_assume!(a.abs() > 1e-6 && b.abs() > 1e-6);
            prop_assert_eq!(product(a.to_bits(), 0), Some((a * 0.0).to_bits()));
            prop_assert_eq!(sum(0, a.to_bits()), Some(a.to_bits()));
            prop_assert_eq!(product(a.to_bits(), b.to_bits()), Some((a * b).to_bits()));
            prop_assert_eq!(sum(a.to_bits(), b.to_bits()), Some((a + b).to_bits()));
        }
    }
}
