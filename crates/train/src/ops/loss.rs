//! Cross entropy, and the divergence from a teacher.

use crate::vector::{exp, max, sum, vectorized};

/// How much of the loss is the teacher's opinion, and how soft it is (Hinton et al. 2015).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distillation {
    /// Part of the loss that is `temperature² · KL(teacher ‖ student)`; the rest is cross entropy. 0 to 1.
    pub weight: f32,
    /// Both sets of logits are divided by it before the softmax of the divergence.
    pub temperature: f32,
}

/// Sums over rows, in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSums {
    /// Negative log-likelihood of the targets.
    pub nll: f64,
    /// KL divergence from the teacher at the distillation's temperature; 0 without one.
    pub divergence: f64,
    /// Rows (scored tokens).
    pub tokens: usize,
}

impl std::ops::AddAssign for LossSums {
    fn add_assign(&mut self, other: Self) {
        self.nll += other.nll;
        self.divergence += other.divergence;
        self.tokens += other.tokens;
    }
}

/// Turns `logits` (rows, vocab) into their gradient, each row's loss times `weight`, and returns the sums of the loss.
pub(crate) fn cross_entropy(logits: &mut [f32], targets: &[u32], weight: f32) -> LossSums {
    let nll = fast_cross_entropy(logits, targets, weight);
    LossSums { nll, divergence: 0.0, tokens: targets.len() }
}

vectorized! {
    fn fast_cross_entropy<'a>(logits: &'a mut [f32], targets: &'a [u32], weight: f32) -> f64 = cross_entropy_rows;
}

#[inline(always)]
fn cross_entropy_rows(logits: &mut [f32], targets: &[u32], weight: f32) -> f64 {
    let mut nll = 0.0;
    for (logits, &target) in logits.chunks_exact_mut(logits.len() / targets.len()).zip(targets) {
        let at_target = logits[target as usize];
        let log_denominator = softmax(logits);
        nll += (log_denominator - at_target) as f64;
        logits.iter_mut().for_each(|p| *p *= weight);
        logits[target as usize] -= weight;
    }
    nll
}

/// Turns logits into probabilities and returns the logarithm of the denominator.
#[inline(always)]
fn softmax(logits: &mut [f32]) -> f32 {
    let largest = max(logits);
    logits.iter_mut().for_each(|l| *l = exp(*l - largest));
    let denominator = sum(logits);
    let factor = 1.0 / denominator;
    logits.iter_mut().for_each(|l| *l *= factor);
    largest + denominator.ln()
}

/// [`cross_entropy`], mixed with the divergence from a teacher's logits, which are overwritten.
pub(crate) fn distilled(
    logits: &mut [f32],
    teacher: &mut [f32],
    targets: &[u32],
    weight: f32,
    distillation: Distillation,
) -> LossSums {
    let (nll, divergence) = fast_distilled(logits, teacher, targets, weight, distillation);
    LossSums { nll, divergence, tokens: targets.len() }
}

vectorized! {
    fn fast_distilled<'a>(
        logits: &'a mut [f32],
        teacher: &'a mut [f32],
        targets: &'a [u32],
        weight: f32,
        distillation: Distillation,
    ) -> (f64, f64) = distilled_rows;
}

#[inline(always)]
fn distilled_rows(
    logits: &mut [f32],
    teacher: &mut [f32],
    targets: &[u32],
    weight: f32,
    distillation: Distillation,
) -> (f64, f64) {
    let Distillation { weight: share, temperature } = distillation;
    let vocab = logits.len() / targets.len();
    let (mut nll, mut divergence) = (0.0, 0.0);
    let mut soft = vec![0.0; vocab];
    let mut teacher_scaled = vec![0.0; vocab];
    let rows = logits.chunks_exact_mut(vocab).zip(teacher.chunks_exact_mut(vocab)).zip(targets);
    for ((logits, teacher), &target) in rows {
        for (((soft, scaled), t), l) in
            soft.iter_mut().zip(&mut teacher_scaled).zip(&mut *teacher).zip(&*logits)
        {
            *soft = l / temperature;
            *t /= temperature;
            *scaled = *t;
        }
        let at_target = logits[target as usize];
        nll += (softmax(logits) - at_target) as f64;

        // KL = Σ p_t · (log p_t − log p_s); log p = scaled logit − log denominator.
        let teacher_log = softmax(teacher);
        let cross: f32 = crate::vector::dot(teacher, &teacher_scaled) - crate::vector::dot(teacher, &soft);
        let student_log = softmax(&mut soft);
        divergence += (cross - teacher_log + student_log) as f64;

        // d(T²·KL)/d logit = T · (p_s − p_t).
        let (hard_factor, soft_factor) = (weight * (1.0 - share), weight * share * temperature);
        for ((l, s), t) in logits.iter_mut().zip(&soft).zip(&*teacher) {
            *l = *l * hard_factor + (s - t) * soft_factor;
        }
        logits[target as usize] -= hard_factor;
    }
    (nll, divergence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{check_gradient, random};

    #[test]
    fn cross_entropy_gradients() {
        let (mut logits, targets) = (random(1, 3 * 37), [36, 0, 5]);
        let mut gradient = logits.clone();
        let sums = cross_entropy(&mut gradient, &targets, 0.5);
        assert_eq!(sums.tokens, 3);
        let by_definition: f64 = logits
            .chunks(37)
            .zip(targets)
            .map(|(l, t)| l.iter().map(|l| (*l as f64).exp()).sum::<f64>().ln() - l[t as usize] as f64)
            .sum();
        assert!((sums.nll - by_definition).abs() < 1e-5);
        check_gradient("logits", &mut logits, &gradient, 1e-3, |l| {
            0.5 * cross_entropy(&mut l.to_vec(), &targets, 0.5).nll
        });
    }

    #[test]
    fn distillation_gradients() {
        let (mut logits, teacher, targets) = (random(1, 3 * 37), random(2, 3 * 37), [36, 0, 5]);
        let d = Distillation { weight: 0.75, temperature: 2.0 };
        let mut gradient = logits.clone();
        distilled(&mut gradient, &mut teacher.clone(), &targets, 0.5, d);
        check_gradient("logits", &mut logits, &gradient, 1e-2, |l| {
            let sums = distilled(&mut l.to_vec(), &mut teacher.clone(), &targets, 0.5, d);
            0.5 * (0.25 * sums.nll + 0.75 * 4.0 * sums.divergence)
        });
        // No divergence from oneself.
        let sums = distilled(&mut teacher.clone(), &mut teacher.clone(), &targets, 0.5, d);
        assert!(sums.divergence.abs() < 1e-5);
    }
}
