//! AdamW (Loshchilov & Hutter 2019).

use crate::Compute;
use crate::compute::RANGE;
use crate::params::{Layout, Role};
use crate::vector::vectorized;

/// AdamW's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of the gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the root of that mean.
    pub epsilon: f32,
    /// Part of a matrix's weights that a step at learning rate 1 would take away. Norms are not decayed.
    pub weight_decay: f32,
}

/// The running means of the gradients and of their squares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Mean gradient of each weight.
    pub mean: Vec<f32>,
    /// Mean squared gradient of each weight.
    pub square: Vec<f32>,
}

impl Moments {
    /// The means before the first step.
    pub fn zeros(weights: usize) -> Self {
        Moments { mean: vec![0.0; weights], square: vec![0.0; weights] }
    }
}

#[derive(Clone, Copy)]
struct Factors {
    adam: AdamW,
    /// The gradient is multiplied with it: clipping.
    clip: f32,
    /// Learning rate over the correction of the mean.
    rate: f32,
    /// One over the correction of the mean square.
    square: f32,
    /// Learning rate times weight decay.
    decay: f32,
}

impl AdamW {
    /// Updates all weights: step number `step`, from 1, with learning rate `lr`, the gradient multiplied with `clip`.
    pub(crate) fn step(
        &self,
        compute: &Compute,
        layout: &Layout,
        weights: &mut [f32],
        moments: &mut Moments,
        gradient: &[f32],
        (step, lr, clip): (usize, f32, f32),
    ) {
        let correction = |beta: f32| 1.0 - (beta as f64).powi(step.min(1 << 30) as i32) as f32;
        let factors = Factors {
            adam: *self,
            clip,
            rate: lr / correction(self.beta1),
            square: 1.0 / correction(self.beta2),
            decay: 0.0,
        };
        let (mut w, mut g, mut m, mut v) =
            (weights, gradient, &mut moments.mean[..], &mut moments.square[..]);
        let mut jobs = vec![];
        for view in layout.views() {
            let decay = if view.role == Role::Norm { 0.0 } else { lr * self.weight_decay };
            let factors = Factors { decay, ..factors };
            let mut left = view.range.len();
            while left > 0 {
                let n = left.min(RANGE);
                left -= n;
                let part;
                (part, w) = w.split_at_mut(n);
                let gradient;
                (gradient, g) = g.split_at(n);
                let mean;
                (mean, m) = m.split_at_mut(n);
                let square;
                (square, v) = v.split_at_mut(n);
                jobs.push((part, mean, square, gradient, factors));
            }
        }
        compute.run(jobs, |_, (w, mean, square, gradient, f)| fast_update(w, mean, square, gradient, f));
    }
}

vectorized! {
    fn fast_update<'a>(
        w: &'a mut [f32],
        mean: &'a mut [f32],
        square: &'a mut [f32],
        gradient: &'a [f32],
        f: Factors,
    ) = update;
}

#[inline(always)]
fn update(w: &mut [f32], mean: &mut [f32], square: &mut [f32], gradient: &[f32], f: Factors) {
    let AdamW { beta1, beta2, epsilon, .. } = f.adam;
    for (((w, m), v), g) in w.iter_mut().zip(mean).zip(square).zip(gradient) {
        let g = g * f.clip;
        *m = beta1 * *m + (1.0 - beta1) * g;
        *v = beta2 * *v + (1.0 - beta2) * g * g;
        *w -= f.rate * *m / ((*v * f.square).sqrt() + epsilon) + f.decay * *w;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::small_shape;

    #[test]
    fn follows_the_papers_recurrence_in_f64() {
        let layout = Layout::new(small_shape()).unwrap();
        let n = layout.len();
        let start = layout.initial_weights(1);
        let mut weights = start.clone();
        let mut moments = Moments::zeros(n);
        let adam = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };
        let compute = Compute::new(2);
        let gradient = |step: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * 31 + step * 17) % 23) as f32 / 10.0 - 1.0).collect()
        };
        for step in 1..=5 {
            adam.step(&compute, &layout, &mut weights, &mut moments, &gradient(step), (step, 0.01, 0.5));
        }
        for view in layout.views() {
            for i in [view.range.start, view.range.end - 1] {
                let (mut w, mut m, mut v) = (start[i] as f64, 0.0, 0.0);
                for step in 1..=5 {
                    let g = gradient(step)[i] as f64 * 0.5;
                    m = 0.9 * m + 0.1 * g;
                    v = 0.95 * v + 0.05 * g * g;
                    let (mh, vh) =
                        (m / (1.0 - 0.9f64.powi(step as i32)), v / (1.0 - 0.95f64.powi(step as i32)));
                    let decay = if view.role == Role::Norm { 0.0 } else { 0.1 };
                    w -= 0.01 * (mh / (vh.sqrt() + 1e-8) + decay * w);
                }
                assert!((w - weights[i] as f64).abs() < 1e-5, "{} {i}", view.name);
            }
        }
    }
}
