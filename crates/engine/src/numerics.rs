//! Numbers, to the bit: every function here gives the same bits on every target.
//!
//! - Only f32 `+ − × ÷`, square roots and conversions, which IEEE 754 rounds alike everywhere; never
//!   `mul_add`, and Rust never contracts. `sin`, `cos` and `pow` are `libm`'s, which is the same code everywhere.
//! - A reduction adds in one order: 8 interleaved partial sums (element `i` goes to sum `i mod 8`), then a
//!   fixed tree. A compiler may put the 8 sums into a vector register without changing a bit.
//! - A number becomes an integer by adding 1.5 · 2²³, which leaves the integer in the low bits: to nearest,
//!   halves to even. It is one addition on every target, with or without a floating-point unit.
//!
//! Everything here is `inline(always)`: each [kernel](crate::kernels) compiles its own copy for the
//! instructions that it has.

use pageformer_card::matrix::TILE_INPUTS;

/// Whether f32 are added and multiplied in software: then integers that say the same are compared instead, and what need
/// not be computed is skipped, which elsewhere would keep a loop out of vector registers.
pub(crate) const SOFT: bool = cfg!(soft_f32);

/// The tree that ends every reduction.
#[inline(always)]
fn tree(s: [f32; 8]) -> f32 {
    ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
}

/// Sum of `f(x)` over `values`, in the fixed order.
#[inline(always)]
pub fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; 8];
    let mut chunks = values.chunks_exact(8);
    for chunk in &mut chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += f(*x);
        }
    }
    for (sum, x) in sums.iter_mut().zip(chunks.remainder()) {
        *sum += f(*x);
    }
    tree(sums)
}

/// 1.5 · 2²³: adding it rounds to the nearest integer, which is then in the low bits.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// What [`exp`] is made of.
pub(crate) mod exp_parts {
    /// Below it, the result is 0.
    pub const LEAST: f32 = -87.0;
    /// Above it, the result stays.
    pub const MOST: f32 = 88.3;
    /// ln 2 in two parts; the first has few bits, so that an exponent times it is exact.
    pub const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    /// Of the polynomial, the highest power first.
    pub const COEFFICIENTS: [f32; 8] =
        [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
}

/// `eˣ`. Below −87 it is 0; above 88.3 it stays at e^88.3. The error is below 1.25 units in the last place, as a test of all floats says.
///
/// `x = n·ln 2 + r`, `|r| ≤ ln 2 / 2`; `eʳ` by a polynomial, `2ⁿ` by its bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    if SOFT && is_below_exp(x.to_bits()) {
        return 0.0;
    }
    let [e] = exp_of_each([x]);
    e
}

/// [`exp`] of each, step by step, so that none waits for what another's last step gave.
#[inline(always)]
fn exp_of_each<const N: usize>(x: [f32; N]) -> [f32; N] {
    use exp_parts::{COEFFICIENTS, LEAST, LN2, MOST};
    let clamped = x.map(|x| {
        let x = if x < LEAST { LEAST } else { x };
        if x > MOST { MOST } else { x }
    });
    let shifted = clamped.map(|x| x * core::f32::consts::LOG2_E + ROUND);
    let r: [f32; N] = core::array::from_fn(|i| {
        let n = shifted[i] - ROUND;
        (clamped[i] - n * LN2.0) - n * LN2.1
    });
    let mut p = [COEFFICIENTS[0]; N];
    for coefficient in &COEFFICIENTS[1..] {
        p = core::array::from_fn(|i| p[i] * r[i] + coefficient);
    }
    core::array::from_fn(|i| {
        // n is −126 to 127 here.
        let n = (shifted[i].to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let e = p[i] * f32::from_bits((n.wrapping_add(127) << 23) as u32);
        if x[i] < LEAST { 0.0 } else { e }
    })
}

/// `x < −87` by the bits of `x`.
#[inline(always)]
fn is_below_exp(bits: u32) -> bool {
    bits > exp_parts::LEAST.to_bits() && bits <= f32::NEG_INFINITY.to_bits()
}

/// `x · σ(x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// GELU, tanh approximation: `x · σ(2z)` with `z = √(2/π) · (x + 0.044715·x³)`.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    let z = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-2.0 * z))
}

/// Largest of `values`; −∞ if there is none.
#[inline(always)]
pub fn max_of(values: &[f32]) -> f32 {
    if SOFT { max_by_bits(values) } else { max_by_value(values) }
}

/// [`max_of`], but for the sign of zeros, and where there are NaN.
#[inline(always)]
fn max_by_bits(values: &[f32]) -> f32 {
    // Below zero, the order of the bits is turned around.
    let key = |bits: i32| bits ^ ((bits >> 31) as u32 >> 1) as i32;
    let most = values.iter().map(|x| key(x.to_bits() as i32)).max();
    most.map_or(f32::NEG_INFINITY, |most| f32::from_bits(key(most) as u32))
}

#[inline(always)]
fn max_by_value(values: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; 8];
    let mut chunks = values.chunks_exact(8);
    for chunk in &mut chunks {
        for (m, x) in most.iter_mut().zip(chunk) {
            *m = if *x > *m { *x } else { *m };
        }
    }
    for (m, x) in most.iter_mut().zip(chunks.remainder()) {
        *m = if *x > *m { *x } else { *m };
    }
    most.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// Largest magnitude of `values` as the bits of an f32, which order like the magnitudes and put infinity
/// and NaN above all.
#[inline(always)]
fn magnitude_bits(values: &[f32]) -> u32 {
    values.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7FFF_FFFF))
}

/// Magnitudes below this are taken for zero: their inverse scale would not be finite.
const TINY: f32 = 1e-30;

/// Quantizes one segment to int8, symmetric: `s = max|x| / 127`, `q = x · (127 / max|x|)` rounded. Returns `s`, or `None` if a value is not finite.
#[inline(always)]
pub fn quantize(values: &[f32], out: &mut [i8]) -> Option<f32> {
    let most = f32::from_bits(magnitude_bits(values));
    if !most.is_finite() {
        return None;
    }
    if most < TINY {
        out.fill(0);
        return Some(0.0);
    }
    let inverse = 127.0 / most;
    for (q, x) in out.iter_mut().zip(values) {
        *q = round(*x * inverse);
    }
    Some(most * (1.0 / 127.0))
}

/// To the nearest integer, halves to even, for magnitudes that int8 holds.
#[inline(always)]
pub fn round(v: f32) -> i8 {
    (v + ROUND).to_bits() as i8
}

/// To the nearest integer, halves to even, for magnitudes that i16 holds.
#[inline(always)]
pub fn round_i16(v: f32) -> i16 {
    (v + ROUND).to_bits() as i16
}

/// Quantizes `values` in segments of 256 into `out`, padded with zeros; a scale for each into `scales`.
/// `None` if a value is not finite.
#[inline(always)]
pub fn quantize_segments(values: &[f32], out: &mut [i8], scales: &mut [f32]) -> Option<()> {
    let segments = values.chunks(TILE_INPUTS).zip(out.chunks_mut(TILE_INPUTS));
    for ((values, out), scale) in segments.zip(scales) {
        *scale = quantize(values, out)?;
        if let Some(padding) = out.get_mut(values.len()..) {
            padding.fill(0);
        }
    }
    Some(())
}

/// Largest magnitude as a scale for [`quantize_with`]: `max|x| / 127` rounded up to bf16. `None` if a value
/// is not finite.
#[inline(always)]
pub fn bf16_scale(values: &[f32]) -> Option<u16> {
    let most = f32::from_bits(magnitude_bits(values));
    if !most.is_finite() {
        return None;
    }
    if most < TINY {
        return Some(0);
    }
    let scale = pageformer_card::bf16::round_up(most * (1.0 / 127.0));
    pageformer_card::bf16::to_f32(scale).is_finite().then_some(scale)
}

/// Quantizes with a scale that [`bf16_scale`] gave.
#[inline(always)]
pub fn quantize_with(values: &[f32], scale: u16, out: &mut [i8]) {
    if scale == 0 {
        out.fill(0);
        return;
    }
    let inverse = 1.0 / pageformer_card::bf16::to_f32(scale);
    for (q, x) in out.iter_mut().zip(values) {
        *q = round(*x * inverse);
    }
}

/// `√x`, rounded alike everywhere, as IEEE 754 demands: by the processor's instruction where every one has it.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse"))]
    return crate::kernels::sqrt(x);
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse")))]
    libm::sqrtf(x)
}

/// Radians a position of channel pair `pair`: `theta^(−2·pair / head_dim)`.
pub fn rotary_frequency(theta: f32, head_dim: u32, pair: u32) -> f32 {
    1.0 / libm::powf(theta, (2 * pair) as f32 / head_dim as f32)
}

/// Cosine and sine of the rotary angle at `position`.
pub fn rotation(frequency: f32, position: u32) -> (f32, f32) {
    let angle = position as f32 * frequency;
    (libm::cosf(angle), libm::sinf(angle))
}

/// `h = (x − mean) / √(var + eps)`, with `mean = 0` unless `centred`.
#[inline(always)]
pub fn normalize(x: &[f32], centred: bool, eps: f32, h: &mut [f32]) {
    let n = x.len() as f32;
    let mean = if centred { sum_of(x, |x| x) / n } else { 0.0 };
    // x − 0 is x.
    let deviation = |x: f32| if centred { x - mean } else { x };
    let inverse = 1.0 / sqrt(sum_of(x, |x| deviation(x) * deviation(x)) / n + eps);
    for (h, x) in h.iter_mut().zip(x) {
        *h = deviation(*x) * inverse;
    }
}

/// The little-endian numbers in `bytes`.
#[inline(always)]
fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// `h *= gain`; `gain` as on the card.
#[inline(always)]
pub fn scale_by(h: &mut [f32], gain: &[u8]) {
    for (h, gain) in h.iter_mut().zip(floats(gain)) {
        *h *= gain;
    }
}

/// `h += bias`; `bias` as on the card.
#[inline(always)]
pub fn shift_by(h: &mut [f32], bias: &[u8]) {
    for (h, bias) in h.iter_mut().zip(floats(bias)) {
        *h += bias;
    }
}

/// `x += h`.
#[inline(always)]
pub fn add(x: &mut [f32], h: &[f32]) {
    for (x, h) in x.iter_mut().zip(h) {
        *x += h;
    }
}

/// `gate = up · silu(gate)`.
#[inline(always)]
pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    /// So many side by side where registers are wide: an exponential is a chain of 25 steps.
    const SIDE: usize = 64;
    let wide = if cfg!(target_arch = "x86_64") { gate.len().min(up.len()) / SIDE * SIDE } else { 0 };
    let (gates, gate) = gate.split_at_mut(wide);
    let (ups, up) = up.split_at(wide);
    for (gate, up) in gates.as_chunks_mut::<SIDE>().0.iter_mut().zip(ups.as_chunks::<SIDE>().0) {
        let e = exp_of_each(gate.map(|x| -x));
        *gate = core::array::from_fn(|i| up[i] * (gate[i] / (1.0 + e[i])));
    }
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = up * silu(*gate);
    }
}

/// `up = gelu(up)`.
#[inline(always)]
pub fn gelu_all(up: &mut [f32]) {
    for up in up.iter_mut() {
        *up = gelu(*up);
    }
}

/// Rotates channel `i` of every head with channel `i + head_dim / 2`; `angles` are `head_dim / 2` cosines, then
/// as many sines.
#[inline(always)]
pub fn rotate(heads: &mut [f32], angles: &[f32]) {
    let (cosines, sines) = angles.split_at(angles.len() / 2);
    for head in heads.chunks_exact_mut(angles.len().max(1)) {
        let (first, second) = head.split_at_mut(cosines.len());
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cosines.iter().zip(sines)) {
            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
        }
    }
}

/// Whether none of `values` is infinite or NaN.
#[inline(always)]
pub fn all_finite(values: &[f32]) -> bool {
    f32::from_bits(magnitude_bits(values)).is_finite()
}

/// `x == y`, neither of which is NaN.
#[inline(always)]
fn equal(x: f32, y: f32) -> bool {
    let (a, b) = (x.to_bits(), y.to_bits());
    if SOFT { a == b || (a | b) << 1 == 0 } else { x == y }
}

/// The first of the largest; 0 if there is none.
#[inline(always)]
pub fn argmax(values: &[f32]) -> usize {
    let most = max_of(values);
    // Looked for in blocks, so that all but the right one are compared without a branch.
    let block =
        values.chunks(64).position(|block| block.iter().fold(false, |found, x| found | equal(*x, most)));
    let from = block.unwrap_or(0) * 64;
    let within = values.get(from..).and_then(|block| block.iter().position(|x| equal(*x, most)));
    from + within.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    /// Every float but infinity and NaN, shared out to the processors that there are.
    #[test]
    fn exp_is_close_for_every_float() {
        const SIDE_BY_SIDE: usize = 64;
        let most = exp(exp_parts::MOST);
        let worst_of = |bits: core::ops::Range<u32>| {
            let mut worst = 0.0f64;
            for from in bits.step_by(SIDE_BY_SIDE) {
                for sign in [1.0, -1.0] {
                    let x: [f32; SIDE_BY_SIDE] =
                        core::array::from_fn(|i| sign * f32::from_bits(from + i as u32));
                    let got = exp_of_each(x);
                    assert_eq!(exp(x[0]), got[0]);
                    assert!(x.iter().all(|x| is_below_exp(x.to_bits()) == (*x < exp_parts::LEAST)));
                    if x.iter().all(|x| *x < -87.0) {
                        assert_eq!(got, [0.0; SIDE_BY_SIDE], "{x:?}");
                        continue;
                    }
                    if x.iter().all(|x| *x > 88.3) {
                        assert_eq!(got, [most; SIDE_BY_SIDE], "{x:?}");
                        continue;
                    }
                    for (x, got) in x.into_iter().zip(got) {
                        let limited = if x > 88.3 { exp_parts::MOST } else { x };
                        // Three floats of four are so small that an f64 shows no more of the series.
                        let small = x.abs() < 1e-8;
                        let want = if small { 1.0 + f64::from(x) } else { f64::from(limited).exp() };
                        let nearest = want as f32;
                        let unit = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
                        if x < -87.0 {
                            assert_eq!(got, 0.0, "{x}");
                        } else {
                            assert!(got.is_finite(), "{x}");
                            worst = worst.max((f64::from(got) - want).abs() / unit);
                        }
                    }
                }
            }
            worst
        };
        // One exponent after the other, as those beyond the range take less time.
        let next = core::sync::atomic::AtomicU32::new(0);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let worst = std::thread::scope(|scope| {
            let work = || {
                let mut worst = 0.0f64;
                loop {
                    let exponent = next.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
                    if exponent >= f32::INFINITY.to_bits() >> 23 {
                        return worst;
                    }
                    worst = worst.max(worst_of(exponent << 23..(exponent + 1) << 23));
                }
            };
            let running: std::vec::Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            running.into_iter().map(|piece| piece.join().unwrap()).fold(0.0, f64::max)
        });
        assert!(worst > 1.0 && worst < 1.25, "{worst} units in the last place");
        assert!(most.is_finite() && exp(f32::INFINITY) == most);
        assert_eq!([f32::NEG_INFINITY, 0.0, -0.0].map(exp), [0.0, 1.0, 1.0]);
    }

    proptest! {
        /// What is done where f32 are computed in software says the same.
        #[test]
        fn bits_say_what_values_do(mut values in proptest::collection::vec(-100f32..100.0, 1..40), special in 0usize..4) {
            values[0] = [-0.0, 0.0, f32::NEG_INFINITY, f32::INFINITY][special];
            prop_assert!(max_by_bits(&values) == max_by_value(&values));
            for x in &values {
                prop_assert_eq!(is_below_exp(x.to_bits()), *x < -87.0);
            }
        }

        #[test]
        fn sums_are_close_to_exact_ones(values in proptest::collection::vec(-10f32..10.0, 0..100)) {
            let exact: f64 = values.iter().map(|x| f64::from(*x)).sum();
            prop_assert!((f64::from(sum_of(&values, |x| x)) - exact).abs() < 1e-3);
        }

        #[test]
        fn quantization_is_within_half_a_step(values in proptest::collection::vec(-10f32..10.0, 1..300)) {
            let mut q = std::vec![0; values.len().next_multiple_of(4)];
            let mut scales = [0.0; 2];
            quantize_segments(&values, &mut q, &mut scales).unwrap();
            for (i, x) in values.iter().enumerate() {
                let s = scales[i / 256];
                prop_assert!((f32::from(q[i]) * s - x).abs() <= s * 0.5001);
            }
            let scale = bf16_scale(&values).unwrap();
            quantize_with(&values, scale, &mut q);
            let s = pageformer_card::bf16::to_f32(scale);
            for (q, x) in q.iter().zip(&values) {
                prop_assert!((f32::from(*q) * s - x).abs() <= s * 0.5001);
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_noticed() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(quantize(&[1.0, bad, 2.0], &mut [0; 3]), None);
            assert_eq!(bf16_scale(&[bad]), None);
        }
        assert_eq!(quantize(&[1e-40, 0.0], &mut [1; 2]), Some(0.0));
    }

    #[test]
    fn the_ends_of_exp_by_bits() {
        for x in [-87.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -87.00001, 0.0, -0.0] {
            assert_eq!(is_below_exp(x.to_bits()), x < -87.0, "{x}");
        }
        assert_eq!(max_by_bits(&[]), f32::NEG_INFINITY);
    }

    #[test]
    fn halves_round_to_even() {
        assert_eq!(
            [0.5, -0.5, 1.5, 126.9, -127.0, 0.49, 2.5, -1.5].map(round),
            [0, 0, 2, 127, -127, 0, 2, -2]
        );
        assert_eq!([32767.0, -32767.0, 0.5, 1.5].map(round_i16), [32767, -32767, 0, 2]);
    }

    #[test]
    fn roots_are_those_of_libm() {
        for bits in (0..f32::INFINITY.to_bits()).step_by(9973) {
            let x = f32::from_bits(bits);
            assert_eq!(sqrt(x).to_bits(), libm::sqrtf(x).to_bits(), "{x}");
        }
    }

    #[test]
    fn the_first_of_the_largest() {
        let mut values = [0.0f32; 300];
        assert_eq!(argmax(&values), 0);
        for at in [299, 200, 64, 63, 1] {
            values[at] = 1.0;
            assert_eq!(argmax(&values), at);
        }
        assert_eq!(argmax(&[-2.0, -1.0, -1.0]), 1);
        assert_eq!(argmax(&[]), 0);
    }
}
