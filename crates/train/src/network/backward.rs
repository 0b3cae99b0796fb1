//! The backward pass: the gradient of the loss by every weight.
//!
//! It walks the forward pass in reverse, with the same letters for the dimensions.

use pageformer_card::Mlp;

use crate::LossSums;
use crate::linalg::{mat, mat_mut, matmul_nn, matmul_tn};
use crate::ops::norm::{self, NormGrads};
use crate::ops::rope::Turn;
use crate::ops::{attention, loss, mlp};
use crate::params::NormPlace;
use crate::vector::add_assign;

use super::workspace::{Dropout, Packed, Workspace, sized};
use super::{Network, Teacher, head_blocks};

/// What the gradient is taken of: `token_weight` times the sum of the scored tokens' losses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Objective<'a> {
    pub token_weight: f32,
    /// With a teacher, the loss is mixed with the divergence from it.
    pub teacher: Option<Teacher<'a>>,
    pub dropout: Option<Dropout>,
}

impl Network {
    /// Adds the gradient of the objective to `grads` and returns the sums of the loss.
    pub(crate) fn gradient(
        &self,
        grads: &mut [f32],
        weights: &[f32],
        batch: &Packed,
        objective: Objective,
        ws: &mut Workspace,
    ) -> LossSums {
        if let Some(teacher) = objective.teacher {
            teacher.network.forward(teacher.weights, batch, ws, None);
            std::mem::swap(&mut ws.teacher_normed, &mut ws.normed);
        }
        self.forward(weights, batch, ws, objective.dropout);
        let sums = self.head_gradient(grads, weights, batch, objective, ws);
        self.layers_gradient(grads, weights, batch, objective.dropout, ws);
        sums
    }

    /// Loss, and its gradient by the residual stream after the last layer: `ws.dresidual`.
    fn head_gradient(
        &self,
        grads: &mut [f32],
        weights: &[f32],
        batch: &Packed,
        objective: Objective,
        ws: &mut Workspace,
    ) -> LossSums {
        let Objective { token_weight, teacher, .. } = objective;
        let (n, d, vocab) = (batch.rows(), self.width(), self.layout.shape().vocab as usize);
        let scored = batch.scored.len();
        let mut sums = LossSums::default();
        let dnormed = sized(&mut ws.dnormed, scored * d);
        for (rows, targets) in head_blocks(batch) {
            let logits = self.logits(weights, &ws.normed, rows.clone(), &mut ws.logits);
            sums += match teacher {
                None => loss::cross_entropy(logits, targets, token_weight),
                Some(t) => {
                    let teacher_normed = &ws.teacher_normed;
                    let soft = t.network.logits(t.weights, teacher_normed, rows.clone(), &mut ws.teacher);
                    loss::distilled(logits, soft, targets, token_weight, t.distillation)
                }
            };
            let dlogits = mat(logits, rows.len(), vocab);
            let normed = mat(&ws.normed[rows.start * d..], rows.len(), d);
            let dhead = mat_mut(&mut grads[self.layout.head.clone()], vocab, d);
            matmul_tn(dhead, 1.0, 1.0, dlogits, normed);
            let head = mat(&weights[self.layout.head.clone()], vocab, d);
            matmul_nn(mat_mut(&mut dnormed[rows.start * d..], rows.len(), d), 0.0, 1.0, dlogits, head);
        }

        let dgathered = match &self.layout.final_norm {
            None => dnormed,
            Some(place) => {
                let dgathered = sized(&mut ws.dgathered, scored * d);
                dgathered.fill(0.0);
                let norm = self.norm(weights, place);
                norm::backward(dgathered, norm_grads(grads, place), dnormed, &ws.gathered, &ws.stats, norm);
                dgathered
            }
        };
        let dx = sized(&mut ws.dresidual, n * d);
        dx.fill(0.0);
        for (from, &to) in dgathered.chunks_exact(d).zip(&batch.scored) {
            dx[to * d..][..d].copy_from_slice(from);
        }
        sums
    }

    /// From `ws.dresidual` down to the embedding.
    fn layers_gradient(
        &self,
        grads: &mut [f32],
        weights: &[f32],
        batch: &Packed,
        dropout: Option<Dropout>,
        ws: &mut Workspace,
    ) {
        let (n, d, ff, hidden) = (batch.rows(), self.width(), self.ff(), self.hidden());
        let (q, row) = (self.heads.queries * self.heads.dim, self.heads.row());
        let depth = self.layout.layers.len();
        let dx = &mut ws.dresidual[..];
        for (l, place) in self.layout.layers.iter().enumerate().rev() {
            let acts = &mut ws.layers[l];

            // output = middle + W2 · activated
            let dnormed = sized(&mut ws.dwidth, n * d);
            let dbranch = dropped(dx, dnormed, dropout, l, 2);
            let dactivated = sized(&mut ws.dwide, n * ff);
            let w2 = mat(&weights[place.w2.clone()], d, ff);
            matmul_nn(mat_mut(dactivated, n, ff), 0.0, 1.0, mat(dbranch, n, d), w2);
            let dw2 = mat_mut(&mut grads[place.w2.clone()], d, ff);
            matmul_tn(dw2, 1.0, 1.0, mat(dbranch, n, d), mat(&acts.activated, n, ff));
            match self.layout.shape().mlp {
                Mlp::Gelu => mlp::gelu_backward(&mut acts.hidden, dactivated),
                Mlp::SwiGlu => mlp::swiglu_backward(&mut acts.hidden, dactivated, ff),
            }
            let dhidden = mat(&acts.hidden, n, hidden);
            let dw = mat_mut(&mut grads[place.hidden.clone()], hidden, d);
            matmul_tn(dw, 1.0, 1.0, dhidden, mat(&acts.normed2, n, d));
            let w = mat(&weights[place.hidden.clone()], hidden, d);
            matmul_nn(mat_mut(dnormed, n, d), 0.0, 1.0, dhidden, w);
            let ln2 = self.norm(weights, &place.ln2);
            norm::backward(dx, norm_grads(grads, &place.ln2), dnormed, &acts.middle, &acts.stats2, ln2);

            // middle = input + Wo · attended
            let dbranch = dropped(dx, dnormed, dropout, l, 1);
            let dattended = sized(&mut ws.dwide, n * q);
            let wo = mat(&weights[place.wo.clone()], d, q);
            matmul_nn(mat_mut(dattended, n, q), 0.0, 1.0, mat(dbranch, n, d), wo);
            let dwo = mat_mut(&mut grads[place.wo.clone()], d, q);
            matmul_tn(dwo, 1.0, 1.0, mat(dbranch, n, d), mat(&acts.attended, n, q));
            let dqkv = sized(&mut ws.dqkv, n * row);
            let scratch = &mut ws.attention;
            attention::backward(dqkv, dattended, &acts.lse, &acts.qkv, &batch.spans, self.heads, scratch);
            self.turn(dqkv, batch, Turn::Back);
            let dw = mat_mut(&mut grads[place.qkv.clone()], row, d);
            matmul_tn(dw, 1.0, 1.0, mat(dqkv, n, row), mat(&acts.normed1, n, d));
            let w = mat(&weights[place.qkv.clone()], row, d);
            matmul_nn(mat_mut(dnormed, n, d), 0.0, 1.0, mat(dqkv, n, row), w);
            let ln1 = self.norm(weights, &place.ln1);
            norm::backward(dx, norm_grads(grads, &place.ln1), dnormed, &acts.input, &acts.stats1, ln1);
        }

        Dropout::apply(dropout, dx, depth, 0);
        let dembedding = &mut grads[self.layout.embedding.clone()];
        for (dx, &token) in dx.chunks_exact(d).zip(&batch.inputs) {
            add_assign(&mut dembedding[token as usize * d..][..d], dx);
        }
    }
}

/// The gradient of a branch before dropout: that of the sum, or a copy in `buffer` with the same values dropped.
fn dropped<'a>(
    dsum: &'a [f32],
    buffer: &'a mut [f32],
    dropout: Option<Dropout>,
    layer: usize,
    branch: u64,
) -> &'a [f32] {
    if dropout.is_none() {
        return dsum;
    }
    buffer.copy_from_slice(dsum);
    Dropout::apply(dropout, buffer, layer, branch);
    buffer
}

/// The places of a norm's gradients.
fn norm_grads<'a>(grads: &'a mut [f32], place: &NormPlace) -> NormGrads<'a> {
    // The bias follows the gain in the buffer.
    let end = place.bias.as_ref().map_or(place.gain.end, |b| b.end);
    let (gain, bias) = grads[place.gain.start..end].split_at_mut(place.gain.len());
    NormGrads { gain, bias: place.bias.is_some().then_some(bias) }
}
