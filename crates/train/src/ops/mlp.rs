//! The non-linear part of the MLP: SwiGLU and GELU.

use crate::vector::{sigmoid, tanh, vectorized};

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const GELU_CUBE: f32 = 0.044_715;

vectorized! {
    /// `out = silu(gate) ⊙ up`; a row of `hidden` is gate, then up.
    pub(crate) fn swiglu_forward<'a>(out: &'a mut [f32], hidden: &'a [f32], ff: usize) = swiglu_forward_rows;
}

#[inline(always)]
fn swiglu_forward_rows(out: &mut [f32], hidden: &[f32], ff: usize) {
    for (out, hidden) in out.chunks_exact_mut(ff).zip(hidden.chunks_exact(2 * ff)) {
        let (gate, up) = hidden.split_at(ff);
        for ((out, &gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * sigmoid(gate) * up;
        }
    }
}

vectorized! {
    /// Overwrites `hidden` (n, 2·ff) with its gradient.
    pub(crate) fn swiglu_backward<'a>(hidden: &'a mut [f32], dout: &'a [f32], ff: usize) = swiglu_backward_rows;
}

#[inline(always)]
fn swiglu_backward_rows(hidden: &mut [f32], dout: &[f32], ff: usize) {
    for (hidden, dout) in hidden.chunks_exact_mut(2 * ff).zip(dout.chunks_exact(ff)) {
        let (gate, up) = hidden.split_at_mut(ff);
        for ((gate, up), dout) in gate.iter_mut().zip(up).zip(dout) {
            let s = sigmoid(*gate);
            let silu = *gate * s;
            let slope = s + silu * (1.0 - s);
            *gate = dout * *up * slope;
            *up = dout * silu;
        }
    }
}

vectorized! {
    /// `out = gelu(hidden)`, tanh approximation.
    pub(crate) fn gelu_forward<'a>(out: &'a mut [f32], hidden: &'a [f32]) = gelu_forward_all;
}

#[inline(always)]
fn gelu_forward_all(out: &mut [f32], hidden: &[f32]) {
    for (out, &x) in out.iter_mut().zip(hidden) {
        *out = 0.5 * x * (1.0 + tanh(SQRT_2_OVER_PI * (x + GELU_CUBE * x * x * x)));
    }
}

vectorized! {
    /// Overwrites `hidden` with its gradient.
    pub(crate) fn gelu_backward<'a>(hidden: &'a mut [f32], dout: &'a [f32]) = gelu_backward_all;
}

#[inline(always)]
fn gelu_backward_all(hidden: &mut [f32], dout: &[f32]) {
    for (hidden, dout) in hidden.iter_mut().zip(dout) {
        let x = *hidden;
        let t = tanh(SQRT_2_OVER_PI * (x + GELU_CUBE * x * x * x));
        let inner = SQRT_2_OVER_PI * (1.0 + 3.0 * GELU_CUBE * x * x);
        *hidden = dout * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{check_gradient, random, scalar};

    #[test]
    fn swiglu_gradients() {
        let (n, ff) = (3, 19);
        let (mut hidden, dout) = (random(1, n * 2 * ff), random(2, n * ff));
        let mut gradient = hidden.clone();
        swiglu_backward(&mut gradient, &dout, ff);
        check_gradient("hidden", &mut hidden, &gradient, 1e-3, |hidden| {
            let mut out = vec![0.0; n * ff];
            swiglu_forward(&mut out, hidden, ff);
            scalar(&out, &dout)
        });
    }

    #[test]
    fn gelu_gradients() {
        let (mut hidden, dout) = (random(1, 60), random(2, 60));
        let mut gradient = hidden.clone();
        gelu_backward(&mut gradient, &dout);
        check_gradient("hidden", &mut hidden, &gradient, 1e-3, |hidden| {
            let mut out = vec![0.0; 60];
            gelu_forward(&mut out, hidden);
            scalar(&out, &dout)
        });
    }
}
