//! Loops over f32 that the compiler turns into vector instructions, and the functions they need.
//!
//! The crate is built for any x86-64 (or Arm …) but runs its loops with AVX2 where the CPU has it: a loop is an
//! `#[inline(always)]` function, and
//! [`vectorized`] declares a function that calls the copy that was compiled for this CPU. The functions here are
//! branch-free so that they, too, can be vectorized.

/// Partial sums of a reduction: two AVX registers.
const LANES: usize = 16;

/// Declares a function that runs another one, an `#[inline(always)]` one, compiled for the widest vectors of this CPU:
/// `vectorized! { fn add<'a>(y: &'a mut [f32], x: &'a [f32]) = add_assign; }`.
///
/// A closure would not do: the compiler may decline to inline it into the function that has the CPU's features, and then it is compiled
/// without them.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$a:lifetime>($($arg:ident: $type:ty),+ $(,)?) = $kernel:path;) => {
        $crate::vector::vectorized! { $(#[$meta])* $vis fn $name<$a>($($arg: $type),+) -> () = $kernel; }
    };
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$a:lifetime>($($arg:ident: $type:ty),+ $(,)?) -> $output:ty = $kernel:path;
    ) => {
        $(#[$meta])*
        $vis fn $name<$a>($($arg: $type),+) -> $output {
            struct Call<$a> {
                lifetime: std::marker::PhantomData<&$a ()>,
                $($arg: $type),+
            }
            impl<$a> pulp::NullaryFnOnce for Call<$a> {
                type Output = $output;
                #[inline(always)]
                fn call(self) -> $output {
                    $kernel($(self.$arg),+)
                }
            }
            pulp::Arch::new().dispatch(Call { lifetime: std::marker::PhantomData, $($arg),+ })
        }
    };
}
pub(crate) use vectorized;

/// `eˣ` to 2 units in the last place for −86 ≤ x ≤ 88; beyond, the value at the bound.
///
/// `x = n·ln 2 + r` with |r| ≤ ln 2 / 2; the Taylor series of `eʳ` up to r⁷; `2ⁿ` goes into the exponent's bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it leaves the nearest integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³
    // ln 2 in two parts; the first has so few bits that n · LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -0.000_212_194_44;
    let x = x.clamp(-86.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh x`, within 2e-7 of it.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// `Σ f(a, b)` in an order that depends on the length only.
#[inline(always)]
fn reduce2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    for (i, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[i] += f(a, b);
    }
    lanes.iter().sum()
}

/// `Σ aᵢ·bᵢ`.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    reduce2(a, b, |a, b| a * b)
}

/// `Σ aᵢ`.
#[inline(always)]
pub(crate) fn sum(a: &[f32]) -> f32 {
    reduce2(a, a, |a, _| a)
}

/// `Σ (aᵢ − mean)²`.
#[inline(always)]
pub(crate) fn squared_deviation(a: &[f32], mean: f32) -> f32 {
    reduce2(a, a, |a, _| (a - mean) * (a - mean))
}

#[inline(always)]
fn reduce_max(a: &[f32], f: impl Fn(f32) -> f32, least: f32) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let mut lanes = [least; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for a in chunks {
        for i in 0..LANES {
            lanes[i] = larger(f(a[i]), lanes[i]);
        }
    }
    rest.iter().chain(&lanes).fold(least, |m, &v| larger(f(v), m))
}

/// The largest of `a`; −∞ if there is none.
#[inline(always)]
pub(crate) fn max(a: &[f32]) -> f32 {
    reduce_max(a, |v| v, f32::NEG_INFINITY)
}

/// The largest |aᵢ|; 0 if there is none.
#[inline(always)]
pub(crate) fn max_abs(a: &[f32]) -> f32 {
    reduce_max(a, f32::abs, 0.0)
}

/// `y += x`.
#[inline(always)]
pub(crate) fn add_assign(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_close_to_the_standard_librarys() {
        for i in -86_000..88_000 {
            let x = i as f32 / 1000.0 + 0.000_37;
            assert!((exp(x) / x.exp() - 1.0).abs() < 3e-7, "exp {x}");
            assert!((tanh(x) - x.tanh()).abs() < 2e-7, "tanh {x}");
            assert!((sigmoid(x) - 1.0 / (1.0 + (-x).exp())).abs() < 2e-7, "sigmoid {x}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37 && exp(-1e30) >= 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    vectorized! { fn fast_dot<'a>(a: &'a [f32], b: &'a [f32]) -> f32 = dot; }
    vectorized! { fn fast_sum<'a>(a: &'a [f32]) -> f32 = sum; }

    #[test]
    fn reductions_cover_the_rest() {
        for n in 0..50 {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 7.0) % 11.0 - 5.0).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 3.0) % 5.0).collect();
            let expected: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert_eq!(fast_dot(&a, &b), expected);
            assert_eq!(fast_sum(&a), a.iter().sum::<f32>());
            assert_eq!(max(&a), a.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v)));
            assert_eq!(max_abs(&a), a.iter().fold(0.0, |m: f32, v| m.max(v.abs())));
        }
    }
}
