//! Causal attention with shared key/value heads, over packed sequences.
//!
//! Heads are narrow (8 to 64 channels) and sequences short, so that general matrix products spend their time on preparations. Here a head's keys and
//! values are laid out once, in both orders, and blocks of [`ROWS`] queries go over them with three small products
//! ([`scores`], [`mix`], [`spread`]). Of the probabilities only the logarithm of each softmax's denominator is kept; the backward pass computes
//! them again (Dao et al. 2022).

use std::ops::Range;

use crate::vector::{dot, exp, max, sum, vectorized};

/// Queries of a block.
const ROWS: usize = 4;
/// Keys, or channels, that a product handles at a time: an AVX register. Both are padded to a multiple.
const LANES: usize = 8;

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

    /// First channels of the keys and of the values of key/value head `shared`.
    fn channels(&self, shared: usize) -> (usize, usize) {
        let key = (self.queries + shared) * self.dim;
        (key, key + self.keys * self.dim)
    }

    /// The query heads of a key/value head.
    fn group(&self, shared: usize) -> Range<usize> {
        let size = self.queries / self.keys;
        shared * size..(shared + 1) * size
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }
}

/// The keys or the values of one head of one sequence, padded with zeros.
#[derive(Debug, Default)]
struct Side {
    by_row: Vec<f32>,   // (padded keys, padded channels)
    by_tile: Vec<f32>,  // (padded keys / LANES, channels, LANES)
    gradient: Vec<f32>, // (padded keys, padded channels)
}

/// Buffers for one head of one sequence.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    keys: Side,
    values: Side,
    queries: Vec<f32>,       // (ROWS, padded channels)
    douts: Vec<f32>,         // (ROWS, padded channels)
    mixed: Vec<f32>,         // (ROWS, padded channels)
    probabilities: Vec<f32>, // (ROWS, padded keys)
    gradients: Vec<f32>,     // (ROWS, padded keys)
}

/// A head's place in rows, and its padded sizes.
#[derive(Clone, Copy)]
struct Place {
    row: usize,     // width of a row
    channel: usize, // first channel
    dim: usize,
    lanes: usize, // channels, padded
    keys: usize,  // keys, padded
}

impl Side {
    /// Lays out the channels `place` of `rows`.
    fn fill(&mut self, rows: &[f32], place: Place) {
        let Place { row, channel, dim, lanes, keys } = place;
        self.by_row.clear();
        self.by_row.resize(keys * lanes, 0.0);
        self.by_tile.clear();
        self.by_tile.resize(keys * dim, 0.0);
        for (i, (to, from)) in self.by_row.chunks_exact_mut(lanes).zip(rows.chunks_exact(row)).enumerate() {
            let from = &from[channel..][..dim];
            to[..dim].copy_from_slice(from);
            let tile = self.by_tile[i / LANES * dim * LANES..].iter_mut().skip(i % LANES).step_by(LANES);
            tile.zip(from).for_each(|(to, from)| *to = *from);
        }
    }

    /// Writes the gradient back to the channels `place` of `rows`.
    fn write_gradient(&self, rows: &mut [f32], place: Place) {
        for (from, to) in self.gradient.chunks_exact(place.lanes).zip(rows.chunks_exact_mut(place.row)) {
            to[place.channel..][..place.dim].copy_from_slice(&from[..place.dim]);
        }
    }

    fn no_gradient(&mut self) {
        self.gradient.clear();
        self.gradient.resize(self.by_row.len(), 0.0);
    }
}

/// Copies up to [`ROWS`] rows' channels of a head, times `factor`, padded with zeros.
#[inline(always)]
fn gather(to: &mut Vec<f32>, rows: &[f32], place: Place, factor: f32) {
    to.clear();
    to.resize(ROWS * place.lanes, 0.0);
    for (to, from) in to.chunks_exact_mut(place.lanes).zip(rows.chunks(place.row)) {
        for (to, from) in to.iter_mut().zip(&from[place.channel..][..place.dim]) {
            *to = from * factor;
        }
    }
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
    let lanes = dim.next_multiple_of(LANES);
    for span in spans {
        let qkv = &qkv[span.start * row..span.end * row];
        let out = &mut out[span.start * out_row..span.end * out_row];
        let lse = &mut lse[span.start * heads.queries..span.end * heads.queries];
        let keys = span.len().next_multiple_of(LANES);
        scratch.probabilities.resize(ROWS * keys, 0.0);
        for shared in 0..heads.keys {
            let (key, value) = heads.channels(shared);
            let place = Place { row, channel: key, dim, lanes, keys };
            scratch.keys.fill(qkv, place);
            scratch.values.fill(qkv, Place { channel: value, ..place });
            for head in heads.group(shared) {
                let query = Place { channel: head * dim, ..place };
                for first in (0..span.len()).step_by(ROWS) {
                    let rows = ROWS.min(span.len() - first);
                    let keys = (first + rows).next_multiple_of(LANES);
                    gather(&mut scratch.queries, &qkv[first * row..], query, heads.scale());
                    let p = &mut scratch.probabilities[..ROWS * keys];
                    scores(p, &scratch.queries, &scratch.keys.by_tile, dim);
                    for (i, p) in p.chunks_exact_mut(keys).take(rows).enumerate() {
                        lse[(first + i) * heads.queries + head] = softmax(p, first + i + 1);
                    }
                    scratch.mixed.resize(ROWS * lanes, 0.0);
                    mix(&mut scratch.mixed, p, &scratch.values.by_row, lanes);
                    let out = out[first * out_row..].chunks_exact_mut(out_row);
                    for (out, mixed) in out.zip(scratch.mixed.chunks_exact(lanes)) {
                        out[query.channel..][..dim].copy_from_slice(&mixed[..dim]);
                    }
                }
            }
        }
    }
}

vectorized! {
    /// Softmax over the first `seen` scores; the rest becomes 0. Returns the logarithm of the denominator.
    fn softmax<'a>(scores: &'a mut [f32], seen: usize) -> f32 = softmax_row;
}

#[inline(always)]
fn softmax_row(scores: &mut [f32], seen: usize) -> f32 {
    scores[seen..].fill(f32::NEG_INFINITY);
    let largest = max(scores);
    scores.iter_mut().for_each(|s| *s = exp(*s - largest));
    // exp(−∞) is 4e-38 here.
    scores[seen..].fill(0.0);
    let denominator = sum(scores);
    let factor = 1.0 / denominator;
    scores.iter_mut().for_each(|s| *s *= factor);
    largest + denominator.ln()
}

vectorized! {
    /// `products[i][j] = rows[i] · side[j]`: (ROWS, keys) from (ROWS, lanes) and tiles.
    fn scores<'a>(products: &'a mut [f32], rows: &'a [f32], by_tile: &'a [f32], dim: usize) = scores_tiles;
}

#[inline(always)]
fn scores_tiles(products: &mut [f32], rows: &[f32], by_tile: &[f32], dim: usize) {
    let [x0, x1, x2, x3] = four(rows);
    let keys = products.len() / ROWS;
    for (j, tile) in (0..keys).step_by(LANES).zip(by_tile.chunks_exact(dim * LANES)) {
        let mut sums = [[0.0f32; LANES]; ROWS];
        let x = x0.iter().zip(x1).zip(x2.iter().zip(x3));
        for (side, ((x0, x1), (x2, x3))) in tile.as_chunks::<LANES>().0.iter().zip(x) {
            for l in 0..LANES {
                sums[0][l] += x0 * side[l];
                sums[1][l] += x1 * side[l];
                sums[2][l] += x2 * side[l];
                sums[3][l] += x3 * side[l];
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            products[i * keys + j..][..LANES].copy_from_slice(sums);
        }
    }
}

vectorized! {
    /// `mixed[i] = Σ weights[i][j] · side[j]`: (ROWS, lanes) from (ROWS, keys) and (keys, lanes).
    fn mix<'a>(mixed: &'a mut [f32], weights: &'a [f32], by_row: &'a [f32], lanes: usize) = mix_rows;
}

#[inline(always)]
fn mix_rows(mixed: &mut [f32], weights: &[f32], by_row: &[f32], lanes: usize) {
    let [w0, w1, w2, w3] = four(weights);
    for c in (0..lanes).step_by(LANES) {
        let mut sums = [[0.0f32; LANES]; ROWS];
        let w = w0.iter().zip(w1).zip(w2.iter().zip(w3));
        for (side, ((w0, w1), (w2, w3))) in by_row.chunks_exact(lanes).zip(w) {
            let side: &[f32; LANES] = side[c..].first_chunk().expect("padded");
            for l in 0..LANES {
                sums[0][l] += w0 * side[l];
                sums[1][l] += w1 * side[l];
                sums[2][l] += w2 * side[l];
                sums[3][l] += w3 * side[l];
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            mixed[i * lanes + c..][..LANES].copy_from_slice(sums);
        }
    }
}

vectorized! {
    /// `gradient[j] += Σ weights[i][j] · rows[i]`: (keys, lanes) from (ROWS, keys) and (ROWS, lanes).
    fn spread<'a>(gradient: &'a mut [f32], weights: &'a [f32], rows: &'a [f32], lanes: usize) = spread_rows;
}

#[inline(always)]
fn spread_rows(gradient: &mut [f32], weights: &[f32], rows: &[f32], lanes: usize) {
    let [w0, w1, w2, w3] = four(weights);
    for c in (0..lanes).step_by(LANES) {
        let row = |i: usize| -> [f32; LANES] { *rows[i * lanes + c..].first_chunk().expect("padded") };
        let (x0, x1, x2, x3) = (row(0), row(1), row(2), row(3));
        let w = w0.iter().zip(w1).zip(w2.iter().zip(w3));
        for (gradient, ((w0, w1), (w2, w3))) in gradient.chunks_exact_mut(lanes).zip(w) {
            let gradient: &mut [f32; LANES] = gradient[c..].first_chunk_mut().expect("padded");
            let mut sums = *gradient;
            for l in 0..LANES {
                sums[l] += w0 * x0[l] + w1 * x1[l] + w2 * x2[l] + w3 * x3[l];
            }
            *gradient = sums;
        }
    }
}

/// The rows of a block.
#[inline(always)]
fn four(rows: &[f32]) -> [&[f32]; ROWS] {
    let row = rows.len() / ROWS;
    std::array::from_fn(|i| &rows[i * row..][..row])
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
    let lanes = dim.next_multiple_of(LANES);
    for span in spans {
        let qkv = &qkv[span.start * row..span.end * row];
        let dqkv = &mut dqkv[span.start * row..span.end * row];
        let dout = &dout[span.start * out_row..span.end * out_row];
        let lse = &lse[span.start * heads.queries..span.end * heads.queries];
        let keys = span.len().next_multiple_of(LANES);
        scratch.probabilities.resize(ROWS * keys, 0.0);
        scratch.gradients.resize(ROWS * keys, 0.0);
        for shared in 0..heads.keys {
            let (key, value) = heads.channels(shared);
            let key = Place { row, channel: key, dim, lanes, keys };
            let value = Place { channel: value, ..key };
            scratch.keys.fill(qkv, key);
            scratch.values.fill(qkv, value);
            scratch.keys.no_gradient();
            scratch.values.no_gradient();
            for head in heads.group(shared) {
                let query = Place { channel: head * dim, ..key };
                for first in (0..span.len()).step_by(ROWS) {
                    let rows = ROWS.min(span.len() - first);
                    let keys = (first + rows).next_multiple_of(LANES);
                    gather(&mut scratch.queries, &qkv[first * row..], query, heads.scale());
                    gather(
                        &mut scratch.douts,
                        &dout[first * out_row..],
                        Place { row: out_row, ..query },
                        1.0,
                    );
                    let p = &mut scratch.probabilities[..ROWS * keys];
                    let dp = &mut scratch.gradients[..ROWS * keys];
                    scores(p, &scratch.queries, &scratch.keys.by_tile, dim);
                    scores(dp, &scratch.douts, &scratch.values.by_tile, dim);
                    for (i, (p, dp)) in p.chunks_exact_mut(keys).zip(dp.chunks_exact_mut(keys)).enumerate() {
                        // Rows beyond the last see nothing, and have no gradient.
                        let seen = if i < rows { first + i + 1 } else { 0 };
                        let lse = lse.get((first + i) * heads.queries + head).copied().unwrap_or(0.0);
                        softmax_backward(p, dp, seen, lse);
                    }
                    spread(&mut scratch.values.gradient[..keys * lanes], p, &scratch.douts, lanes);
                    spread(&mut scratch.keys.gradient[..keys * lanes], dp, &scratch.queries, lanes);
                    scratch.mixed.resize(ROWS * lanes, 0.0);
                    mix(&mut scratch.mixed, dp, &scratch.keys.by_row, lanes);
                    let dq = dqkv[first * row..].chunks_exact_mut(row);
                    for (dq, mixed) in dq.zip(scratch.mixed.chunks_exact(lanes)) {
                        for (dq, mixed) in dq[query.channel..][..dim].iter_mut().zip(mixed) {
                            *dq = mixed * heads.scale();
                        }
                    }
                }
            }
            scratch.keys.write_gradient(dqkv, key);
            scratch.values.write_gradient(dqkv, value);
        }
    }
}

vectorized! {
    /// Turns scores into probabilities, and the gradients of probabilities into those of scores.
    fn softmax_backward<'a>(scores: &'a mut [f32], gradients: &'a mut [f32], seen: usize, lse: f32) = softmax_backward_row;
}

#[inline(always)]
fn softmax_backward_row(scores: &mut [f32], gradients: &mut [f32], seen: usize, lse: f32) {
    scores[seen..].fill(f32::NEG_INFINITY);
    scores.iter_mut().for_each(|s| *s = exp(*s - lse));
    scores[seen..].fill(0.0);
    let mean = dot(scores, gradients);
    for (g, p) in gradients.iter_mut().zip(scores) {
        *g = *p * (*g - mean);
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
                    let q = head * dim;
                    let (k, v) = heads.channels(head / (heads.queries / heads.keys));
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
