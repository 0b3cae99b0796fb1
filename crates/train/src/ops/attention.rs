//! Causal attention with shared key/value heads, over packed sequences.
//!
//! Works on blocks of queries against all keys up to the block's end, so that half of the square is never computed, and keeps only
//! the logarithm of each softmax's denominator for the backward pass, which computes the probabilities again (Dao et al. 2022).

use std::ops::Range;

use crate::linalg::{mat, mat_mut, matmul_nn, matmul_nt, matmul_tn, strided, strided_mut};
use crate::vector::{dot, exp, max, sum, vectorized};

/// Queries of a block.
const BLOCK: usize = 64;

/// Heads, and where they lie in a row: queries, then keys, then values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub queries: usize,
    pub keys: usize,
    pub dim: usize,
}

impl Heads {
    /// Width of a row of queries, keys and values.
    pub(crate) fn row(&self) -> usize {
        (self.queries + 2 * self.keys) * self.dim
    }

    /// Width of a row of outputs.
    fn out_row(&self) -> usize {
        self.queries * self.dim
    }

    /// First channel of query head `head`, of its keys and of its values.
    fn channels(&self, head: usize) -> (usize, usize, usize) {
        let shared = head / (self.queries / self.keys);
        let key = (self.queries + shared) * self.dim;
        (head * self.dim, key, key + self.keys * self.dim)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }
}

/// Buffers for one block.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    probabilities: Vec<f32>, // (BLOCK, keys)
    gradients: Vec<f32>,     // (BLOCK, keys)
}

/// The blocks of a sequence: rows of queries, and the number of keys that the last of them sees.
fn blocks(length: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    (0..length).step_by(BLOCK).map(move |first| {
        let end = (first + BLOCK).min(length);
        (first..end, end)
    })
}

/// Sets `out` (n, queries · dim) and `lse` (n, queries), the logarithm of each softmax's denominator, from `qkv` (n, row).
pub(crate) fn forward(
    out: &mut [f32],
    lse: &mut [f32],
    qkv: &[f32],
    spans: &[Range<usize>],
    heads: Heads,
    scratch: &mut Scratch,
) {
    let (row, out_row, dim) = (heads.row(), heads.out_row(), heads.dim);
    for span in spans {
        let qkv = &qkv[span.start * row..span.end * row];
        let out = &mut out[span.start * out_row..span.end * out_row];
        let lse = &mut lse[span.start * heads.queries..span.end * heads.queries];
        for (rows, keys) in blocks(span.len()) {
            scratch.probabilities.resize(BLOCK * span.len(), 0.0);
            let p = &mut scratch.probabilities[..rows.len() * keys];
            for head in 0..heads.queries {
                let (q, k, v) = heads.channels(head);
                matmul_nt(
                    mat_mut(p, rows.len(), keys),
                    0.0,
                    heads.scale(),
                    strided(&qkv[rows.start * row + q..], rows.len(), dim, row),
                    strided(&qkv[k..], keys, dim, row),
                );
                let lse = &mut lse[rows.start * heads.queries + head..];
                softmax(p, keys, rows.start + 1, lse, heads.queries);
                matmul_nn(
                    strided_mut(&mut out[rows.start * out_row + q..], rows.len(), dim, out_row),
                    0.0,
                    1.0,
                    mat(p, rows.len(), keys),
                    strided(&qkv[v..], keys, dim, row),
                );
            }
        }
    }
}

vectorized! {
    fn softmax<'a>(
        scores: &'a mut [f32],
        keys: usize,
        seen: usize,
        lse: &'a mut [f32],
        lse_stride: usize,
    ) = softmax_rows;
}

/// Softmax over the first `seen` scores of the first row, one more of each further row; the rest becomes 0.
#[inline(always)]
fn softmax_rows(scores: &mut [f32], keys: usize, seen: usize, lse: &mut [f32], lse_stride: usize) {
    for (i, scores) in scores.chunks_exact_mut(keys).enumerate() {
        let (scores, unseen) = scores.split_at_mut(seen + i);
        let largest = max(scores);
        scores.iter_mut().for_each(|s| *s = exp(*s - largest));
        let denominator = sum(scores);
        let factor = 1.0 / denominator;
        scores.iter_mut().for_each(|s| *s *= factor);
        unseen.fill(0.0);
        lse[i * lse_stride] = largest + denominator.ln();
    }
}

/// Sets `dqkv` (n, row) from `dout` (n, queries · dim).
pub(crate) fn backward(
    dqkv: &mut [f32],
    dout: &[f32],
    lse: &[f32],
    qkv: &[f32],
    spans: &[Range<usize>],
    heads: Heads,
    scratch: &mut Scratch,
) {
    let (row, out_row, dim) = (heads.row(), heads.out_row(), heads.dim);
    dqkv.fill(0.0);
    for span in spans {
        let qkv = &qkv[span.start * row..span.end * row];
        let dqkv = &mut dqkv[span.start * row..span.end * row];
        let dout = &dout[span.start * out_row..span.end * out_row];
        let lse = &lse[span.start * heads.queries..span.end * heads.queries];
        for (rows, keys) in blocks(span.len()) {
            scratch.probabilities.resize(BLOCK * span.len(), 0.0);
            scratch.gradients.resize(BLOCK * span.len(), 0.0);
            let p = &mut scratch.probabilities[..rows.len() * keys];
            let dp = &mut scratch.gradients[..rows.len() * keys];
            for head in 0..heads.queries {
                let (q, k, v) = heads.channels(head);
                let queries = strided(&qkv[rows.start * row + q..], rows.len(), dim, row);
                let key = strided(&qkv[k..], keys, dim, row);
                let value = strided(&qkv[v..], keys, dim, row);
                let dout = strided(&dout[rows.start * out_row + q..], rows.len(), dim, out_row);
                matmul_nt(mat_mut(p, rows.len(), keys), 0.0, heads.scale(), queries, key);
                matmul_nt(mat_mut(dp, rows.len(), keys), 0.0, 1.0, dout, value);
                let lse = &lse[rows.start * heads.queries + head..];
                softmax_backward(p, dp, keys, rows.start + 1, lse, heads.queries);
                let (p, ds) = (mat(p, rows.len(), keys), mat(dp, rows.len(), keys));
                matmul_tn(strided_mut(&mut dqkv[v..], keys, dim, row), 1.0, 1.0, p, dout);
                matmul_tn(strided_mut(&mut dqkv[k..], keys, dim, row), 1.0, heads.scale(), ds, queries);
                let dq = strided_mut(&mut dqkv[rows.start * row + q..], rows.len(), dim, row);
                matmul_nn(dq, 0.0, heads.scale(), ds, key);
            }
        }
    }
}

vectorized! {
    fn softmax_backward<'a>(
        scores: &'a mut [f32],
        gradients: &'a mut [f32],
        keys: usize,
        seen: usize,
        lse: &'a [f32],
        lse_stride: usize,
    ) = softmax_backward_rows;
}

/// Turns scores into probabilities, and the gradients of probabilities into those of scores.
#[inline(always)]
fn softmax_backward_rows(
    scores: &mut [f32],
    gradients: &mut [f32],
    keys: usize,
    seen: usize,
    lse: &[f32],
    lse_stride: usize,
) {
    let rows = scores.chunks_exact_mut(keys).zip(gradients.chunks_exact_mut(keys));
    for (i, (scores, gradients)) in rows.enumerate() {
        let (scores, unseen_scores) = scores.split_at_mut(seen + i);
        let (gradients, unseen_gradients) = gradients.split_at_mut(seen + i);
        let lse = lse[i * lse_stride];
        scores.iter_mut().for_each(|s| *s = exp(*s - lse));
        let mean = dot(scores, gradients);
        for (g, p) in gradients.iter_mut().zip(scores) {
            *g = *p * (*g - mean);
        }
        unseen_scores.fill(0.0);
        unseen_gradients.fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{check_gradient, random, scalar};

    fn run(qkv: &[f32], spans: &[Range<usize>], heads: Heads) -> (Vec<f32>, Vec<f32>) {
        let n = qkv.len() / heads.row();
        let (mut out, mut lse) = (vec![0.0; n * heads.out_row()], vec![0.0; n * heads.queries]);
        forward(&mut out, &mut lse, qkv, spans, heads, &mut Scratch::default());
        (out, lse)
    }

    /// The definition, one query at a time.
    fn by_definition(qkv: &[f32], spans: &[Range<usize>], heads: Heads) -> Vec<f64> {
        let (row, dim) = (heads.row(), heads.dim);
        let mut out = vec![];
        for span in spans {
            for i in span.clone() {
                for head in 0..heads.queries {
                    let (q, k, v) = heads.channels(head);
                    let weight = |j: usize| {
                        (0..dim)
                            .map(|c| qkv[i * row + q + c] as f64 * qkv[j * row + k + c] as f64)
                            .sum::<f64>()
                            / (dim as f64).sqrt()
                    };
                    let weights: Vec<f64> = (span.start..=i).map(|j| weight(j).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for c in 0..dim {
                        let value = |j: usize| qkv[(span.start + j) * row + v + c] as f64;
                        let mixed = weights.iter().enumerate().map(|(j, w)| w / total * value(j)).sum();
                        out.push(mixed);
                    }
                }
            }
        }
        out
    }

    #[test]
    fn matches_the_definition() {
        for (heads, n) in [
            (Heads { queries: 4, keys: 2, dim: 6 }, 150),
            (Heads { queries: 3, keys: 1, dim: 8 }, 70),
            (Heads { queries: 2, keys: 2, dim: 2 }, 5),
        ] {
            let qkv = random(1, n * heads.row());
            let spans = [0..1, 1..n / 3, n / 3..n];
            let (out, _) = run(&qkv, &spans, heads);
            let expected = by_definition(&qkv, &spans, heads);
            assert_eq!(out.len(), expected.len());
            assert!(out.iter().zip(&expected).all(|(a, b)| (*a as f64 - b).abs() < 1e-5));
        }
    }

    #[test]
    fn gradients() {
        let heads = Heads { queries: 4, keys: 2, dim: 4 };
        let n = 75;
        let spans = [0..3, 3..n];
        let (qkv, dout) = (random(1, n * heads.row()), random(2, n * heads.out_row()));
        let (_, lse) = run(&qkv, &spans, heads);
        let mut dqkv = vec![1.0; n * heads.row()];
        backward(&mut dqkv, &dout, &lse, &qkv, &spans, heads, &mut Scratch::default());
        for first in 0..7 {
            let gradient: Vec<f32> = dqkv.iter().skip(first).step_by(7).copied().collect();
            let mut part: Vec<f32> = qkv.iter().skip(first).step_by(7).copied().collect();
            check_gradient("qkv", &mut part, &gradient, 2e-3, |part| {
                let mut all = qkv.clone();
                all.iter_mut().skip(first).step_by(7).zip(part).for_each(|(a, p)| *a = *p);
                scalar(&run(&all, &spans, heads).0, &dout)
            });
        }
    }
}
