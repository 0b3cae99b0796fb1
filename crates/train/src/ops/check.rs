//! Gradients against finite differences.

use crate::rng::Rng;

/// `n` normal numbers.
pub(crate) fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed, 99);
    (0..n).map(|_| rng.normal()).collect()
}

/// `Σ aᵢ·bᵢ` in f64: a scalar to differentiate, whose gradient by `a` is `b`.
pub(crate) fn scalar(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum()
}

/// Checks `gradient` of the scalar function `f` at `x` by central differences, at up to 64 places.
///
/// f32 functions have an error of about 1e-6 of their terms; with a step of `h` the quotient's is 1e-6/h, and the neglected third
/// derivative adds h². `tolerance` is relative to the larger of the gradient's and its largest component's tenth.
pub(crate) fn check_gradient(
    what: &str,
    x: &mut [f32],
    gradient: &[f32],
    tolerance: f64,
    mut f: impl FnMut(&[f32]) -> f64,
) {
    assert_eq!(x.len(), gradient.len());
    let h = 1e-2;
    let scale = gradient.iter().fold(1e-3, |m: f64, g| m.max(g.abs() as f64));
    for i in (0..x.len()).step_by(x.len().div_ceil(64)) {
        let at = x[i];
        let mut difference = |h: f32| {
            x[i] = at + h;
            let above = f(x);
            x[i] = at - h;
            let below = f(x);
            x[i] = at;
            (above - below) / (2.0 * h as f64)
        };
        // Richardson: two steps cancel the h² term.
        let numeric = (4.0 * difference(h / 2.0) - difference(h)) / 3.0;
        let error = (numeric - gradient[i] as f64).abs() / (gradient[i].abs() as f64).max(scale / 10.0);
        assert!(error < tolerance, "{what}[{i}]: backward {}, finite differences {numeric}", gradient[i]);
    }
}
