//! Decimal numbers as f32.
//!
//! The standard library's parser keeps tables of 12 KB and 1.6 KB of stack for numbers that are longer than any on a card.

/// Powers of ten that f64 holds exactly: up to 10²².
const EXACT: i32 = 22;
/// Digits that a u64 always holds.
const DIGITS: u32 = 19;

/// The f32 that `text` means: digits with an optional sign, point and exponent. Numbers of up to 15 digits and
/// between 10⁻²² and 10²² (every f32 there that was printed with as many digits as it needs) come out as they were; others within a
/// unit of the last place, the same on every target. `None` if it is no number, or too large.
pub fn parse_f32(text: &str) -> Option<f32> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (text, exponent) = match text.split_once(['e', 'E']) {
        Some((text, exponent)) => (text, exponent.parse::<i32>().ok()?.clamp(-400, 400)),
        None => (text, 0),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut digits = Digits { value: 0, count: 0, exponent };
    digits.append(whole, 1)?;
    digits.append(fraction, 0)?;
    let mut value = digits.value as f64;
    let mut exponent = digits.exponent;
    while exponent != 0 && value != 0.0 {
        let step = exponent.clamp(-EXACT, EXACT);
        let power = (0..step.unsigned_abs()).fold(1.0f64, |power, _| power * 10.0);
        value = if step > 0 { value * power } else { value / power };
        exponent -= step;
    }
    let value = if negative { -value } else { value } as f32;
    value.is_finite().then_some(value)
}

/// A decimal number: `value · 10^exponent`.
struct Digits {
    value: u64,
    /// Digits of `value`.
    count: u32,
    exponent: i32,
}

impl Digits {
    /// Appends digits. Each that is dropped because there are enough makes the exponent larger by `dropped`, each of a
    /// fraction that is kept makes it smaller by one.
    fn append(&mut self, digits: &str, dropped: i32) -> Option<()> {
        for byte in digits.bytes() {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            if self.count == DIGITS {
                self.exponent = self.exponent.saturating_add(dropped);
                continue;
            }
            self.value = self.value * 10 + u64::from(digit);
            self.count += u32::from(self.value != 0);
            self.exponent = self.exponent.saturating_sub(1 - dropped);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    proptest! {
        /// Against the standard library: what is printed is read again, to the bit.
        #[test]
        fn round_trip(bits in any::<u32>()) {
            let x = f32::from_bits(bits);
            prop_assume!(x == 0.0 || (1e-20..1e20).contains(&x.abs()));
            prop_assert_eq!(parse_f32(&x.to_string()).map(f32::to_bits), Some(bits));
            prop_assert_eq!(parse_f32(&std::format!("{x:e}")).map(f32::to_bits), Some(bits));
        }
    }

    #[test]
    fn as_the_standard_library() {
        for text in [
            "0",
            "-0.0",
            "1",
            "0.00001",
            "1e-5",
            "1E+5",
            "10000",
            "16777217",
            "0.1",
            "123456789012345678901",
            ".5",
            "5.",
        ] {
            assert_eq!(parse_f32(text), Some(text.parse().unwrap()), "{text}");
        }
        for text in ["", "-", ".", "e5", "1e", "1x", "--1", "1e99", "nan", "inf", " 1"] {
            assert_eq!(parse_f32(text), None, "{text}");
        }
    }
}
