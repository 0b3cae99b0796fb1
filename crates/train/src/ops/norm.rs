//! RMSNorm and LayerNorm.

use crate::vector::{dot, squared_deviation, sum, vectorized};

/// Gain, and bias where there is one, of a norm.
#[derive(Clone, Copy)]
pub(crate) struct NormWeights<'a> {
    pub gain: &'a [f32],         // (d)
    pub bias: Option<&'a [f32]>, // (d), LayerNorm
    pub eps: f32,
}

/// Gradients of a norm's gain and bias.
pub(crate) struct NormGrads<'a> {
    pub gain: &'a mut [f32],         // (d)
    pub bias: Option<&'a mut [f32]>, // (d)
}

/// What backward needs of a row: `x̂ = (x − mean) · scale`. The mean is 0 for RMSNorm.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RowStats {
    mean: f32,
    scale: f32,
}

vectorized! {
    /// `y = x̂ ⊙ gain + bias` for each row.
    pub(crate) fn forward<'a>(
        y: &'a mut [f32],
        stats: &'a mut [RowStats],
        x: &'a [f32],
        weights: NormWeights<'a>,
    ) = forward_rows;
}

#[inline(always)]
fn forward_rows(y: &mut [f32], stats: &mut [RowStats], x: &[f32], w: NormWeights) {
    let d = w.gain.len();
    for ((y, x), stats) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(stats) {
        let (mean, variance) = match w.bias {
            None => (0.0, dot(x, x) / d as f32),
            Some(_) => {
                let mean = sum(x) / d as f32;
                (mean, squared_deviation(x, mean) / d as f32)
            }
        };
        let scale = 1.0 / (variance + w.eps).sqrt();
        *stats = RowStats { mean, scale };
        for ((y, x), gain) in y.iter_mut().zip(x).zip(w.gain) {
            *y = (x - mean) * scale * gain;
        }
        if let Some(bias) = w.bias {
            crate::vector::add_assign(y, bias);
        }
    }
}

vectorized! {
    /// Adds to `dx` (n, d) and to the gradients of gain and bias. `dy` is overwritten.
    pub(crate) fn backward<'a>(
        dx: &'a mut [f32],
        grads: NormGrads<'a>,
        dy: &'a mut [f32],
        x: &'a [f32],
        stats: &'a [RowStats],
        weights: NormWeights<'a>,
    ) = backward_rows;
}

#[inline(always)]
fn backward_rows(
    dx: &mut [f32],
    grads: NormGrads,
    dy: &mut [f32],
    x: &[f32],
    stats: &[RowStats],
    w: NormWeights,
) {
    let d = w.gain.len();
    let NormGrads { gain: dgain, bias: mut dbias } = grads;
    let rows = dx.chunks_exact_mut(d).zip(dy.chunks_exact_mut(d)).zip(x.chunks_exact(d)).zip(stats);
    for (((dx, dy), x), &RowStats { mean, scale }) in rows {
        let mut mean_dxhat = 0.0;
        if let Some(dbias) = &mut dbias {
            crate::vector::add_assign(dbias, dy);
            mean_dxhat = dot(dy, w.gain) / d as f32;
        }
        for (((dgain, dy), x), gain) in dgain.iter_mut().zip(&mut *dy).zip(x).zip(w.gain) {
            *dgain += *dy * (x - mean) * scale;
            *dy *= gain; // now the gradient of x̂
        }
        // Σ dx̂·x̂ / d; with RMSNorm the mean is 0, and with LayerNorm Σ dx̂·mean is known.
        let along = (dot(dy, x) - mean * mean_dxhat * d as f32) * scale / d as f32;
        for ((dx, dy), x) in dx.iter_mut().zip(&*dy).zip(x) {
            *dx += scale * (dy - mean_dxhat - (x - mean) * scale * along);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{check_gradient, random, scalar};

    fn gradients_are_right(with_bias: bool) {
        let (n, d) = (3, 21);
        let (mut x, gain, bias) = (random(1, n * d), random(2, d), random(3, d));
        x.iter_mut().for_each(|v| *v += 0.5);
        let dy = random(4, n * d);
        let run = |x: &[f32], gain: &[f32], bias: &[f32]| {
            let (mut y, mut stats) = (vec![0.0; n * d], vec![RowStats::default(); n]);
            let weights = NormWeights { gain, bias: with_bias.then_some(bias), eps: 1e-5 };
            forward(&mut y, &mut stats, x, weights);
            (y, stats)
        };
        let (_, stats) = run(&x, &gain, &bias);
        let (mut dx, mut dgain, mut dbias) = (vec![0.0; n * d], vec![0.0; d], vec![0.0; d]);
        let weights = NormWeights { gain: &gain, bias: with_bias.then_some(&bias), eps: 1e-5 };
        let grads = NormGrads { gain: &mut dgain, bias: with_bias.then_some(&mut dbias) };
        backward(&mut dx, grads, &mut dy.clone(), &x, &stats, weights);

        check_gradient("x", &mut x.clone(), &dx, 1e-3, |x| scalar(&run(x, &gain, &bias).0, &dy));
        check_gradient("gain", &mut gain.clone(), &dgain, 1e-3, |g| scalar(&run(&x, g, &bias).0, &dy));
        check_gradient("bias", &mut bias.clone(), &dbias, 1e-3, |b| scalar(&run(&x, &gain, b).0, &dy));
    }

    #[test]
    fn rms_norm_gradients() {
        gradients_are_right(false);
    }

    #[test]
    fn layer_norm_gradients() {
        gradients_are_right(true);
    }
}
