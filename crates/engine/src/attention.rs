//! The KV cache and attention over it.
//!
//! Keys lie like the cells of a matrix whose outputs are positions: blocks of 8 positions × 4 channels, so that
//! one vector register holds what 8 scores need next. Values lie in pairs of positions, channel by channel:
//! what one multiply-add of 16-bit numbers takes. The weights of a softmax become 16-bit integers, so that
//! everything but the softmax itself is integer arithmetic, exact in any order.

use pageformer_card::{Shape, bf16};
use pageformer_vram::{Arena, OutOfMemory};

use crate::kernels::Compute;
use crate::numerics::{bf16_scale, exp, max_of, quantize, quantize_with, round_i16, sqrt, sum_of};
use crate::plan::kv_lens;

/// Positions of a block of keys: what the cache's positions are padded to.
pub const BLOCK: usize = 8;
/// Channels of a block of keys.
pub const CHANNELS: usize = 4;
/// Positions whose weighted values are summed as integers before they become f32: 256 · 127 · 32,767 fits i32.
pub const SUM_POSITIONS: usize = 256;
/// Largest weight of a softmax as an integer, part of the definition of the results. Any value near 32,767 is as
/// good; how far two of them are apart is rounding noise. With this one the greedy text of the reference checkpoint
/// is that of f64 arithmetic to its end, which makes a good test.
const MOST: f32 = 32_746.0;
/// Weights below this are taken for zero: their inverse scale would not be finite.
const TINY: f32 = 1e-30;

/// Keys and values of all positions: int8, with one bf16 scale for each position and KV head, rounded up.
/// `places` are the positions, padded to whole blocks; `channels` is `head_dim`, padded to multiples of 4.
pub(crate) struct KvCache<'m> {
    /// `(n_layers, n_kv_heads, places / 8, channels / 4, 8, 4)`
    keys: &'m mut [i8],
    /// `(n_layers, n_kv_heads, places / 2, channels, 2)`
    values: &'m mut [i8],
    /// `(n_layers, n_kv_heads, places)`
    key_scales: &'m mut [u16],
    /// `(n_layers, n_kv_heads, places)`
    value_scales: &'m mut [u16],
    shape: Shape,
    places: usize,
    channels: usize,
}

/// The part of the cache that belongs to one KV head of one layer; `places` are as many positions as attention
/// looks at, padded to whole blocks.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// `(places / 8, channels / 4, 8, 4)`
    pub keys: &'a [i8],
    /// bf16 `(places)`
    pub key_scales: &'a [u16],
    /// `(places / 2, channels, 2)`
    pub values: &'a [i8],
    /// bf16 `(places)`
    pub value_scales: &'a [u16],
    /// Positions; those of `places` beyond them hold anything.
    pub seen: usize,
    /// `head_dim`, padded to a multiple of 4.
    pub channels: usize,
    /// `head_dim`.
    pub width: usize,
}

/// Memory that attention works in.
pub struct Scratch<'a> {
    /// A quantized query `(channels)`. With twice as much of everything, two queries at once.
    pub query: &'a mut [i8],
    /// Scores, then weights `(places)`.
    pub scores: &'a mut [f32],
    /// Weights as integers `(places)`.
    pub weights: &'a mut [i16],
}

impl Scratch<'_> {
    /// How many queries at once there is memory for, one or two. Boards go without the second and its code.
    fn queries(&self, places: usize, channels: usize) -> usize {
        let room =
            self.scores.len().min(self.weights.len()) / 2 >= places && self.query.len() / 2 >= channels;
        if cfg!(feature = "prepack") && room { 2 } else { 1 }
    }
}

/// The passes of attention over all positions, for `N` queries at once, which a kernel may have better instructions for. Places are whole
/// blocks.
pub(crate) trait Passes {
    /// `scores[t] = (scale · key_scales[t]) · Σ_c query[c]·key[t][c]`, and −∞ for positions that are not seen. The largest of each query. `queries` is
    /// `(N, channels)`, `scores` `(N, places)`.
    fn scores<const N: usize>(
        head: &Head<'_>,
        queries: &[i8],
        scales: [f32; N],
        scores: &mut [f32],
    ) -> [f32; N];

    /// `e[t] = exp(scores[t] − most)`, `scores[t] = e[t] · value_scales[t]`. The sums of `e` and the largest of the new scores. `scores` is
    /// `(N, places)`.
    fn weigh<const N: usize>(
        scores: &mut [f32],
        most: [f32; N],
        value_scales: &[u16],
    ) -> ([f32; N], [f32; N]);

    /// `weights[t] = scores[t] · inverse`, rounded: 0 to [`MOST`]. Both are `(N, places)`.
    fn integers<const N: usize>(scores: &[f32], inverses: [f32; N], weights: &mut [i16]);

    /// `out[c] = Σ_t weights[t]·value[t][c]`, in sums of [`SUM_POSITIONS`] positions, which are then added in order as f32. `weights` is
    /// `(N, places)`, `values` `(places / 2, channels, 2)`, `out` `(N, width)`, where `width` may be less than `channels`.
    fn mix<const N: usize>(weights: &[i16], values: &[i8], channels: usize, out: &mut [f32]);
}

impl<'m> KvCache<'m> {
    pub fn cut(arena: &mut Arena<'m>, shape: &Shape, context: u32) -> Result<Self, OutOfMemory> {
        let (values, scales) = kv_lens(shape, context);
        Ok(Self {
            keys: arena.take(values)?,
            values: arena.take(values)?,
            key_scales: arena.take(scales)?,
            value_scales: arena.take(scales)?,
            shape: *shape,
            places: (context as usize).next_multiple_of(BLOCK),
            channels: (shape.head_dim as usize).next_multiple_of(CHANNELS),
        })
    }

    /// The first of a layer's and head's places.
    fn first(&self, layer: u32, head: usize) -> usize {
        (layer as usize * self.shape.n_kv_heads as usize + head) * self.places
    }

    /// Keeps the keys and values of `position`: `k`, `v` are `(n_kv_heads, head_dim)`. `None` if a value is not
    /// finite.
    pub fn store(
        &mut self,
        compute: &dyn Compute,
        layer: u32,
        position: usize,
        k: &[f32],
        v: &[f32],
        memory: &mut [i8],
    ) -> Option<()> {
        let (width, channels) = (self.shape.head_dim as usize, self.channels);
        let quantized = memory.get_mut(..width)?;
        for (head, (k, v)) in k.chunks_exact(width).zip(v.chunks_exact(width)).enumerate() {
            let first = self.first(layer, head);
            let at = first + position;

            *self.key_scales.get_mut(at)? = compute.quantize_head(k, quantized)?;
            let block = (first + position / BLOCK * BLOCK) * channels;
            let block = self.keys.get_mut(block..block + BLOCK * channels)?;
            let cells = block.chunks_exact_mut(BLOCK * CHANNELS);
            for (cell, k) in cells.zip(quantized.chunks(CHANNELS)) {
                let from = position % BLOCK * CHANNELS;
                cell.get_mut(from..from + k.len())?.copy_from_slice(k);
            }

            *self.value_scales.get_mut(at)? = compute.quantize_head(v, quantized)?;
            let pair = (first + position / 2 * 2) * channels;
            let pair = self.values.get_mut(pair..pair + 2 * channels)?;
            for (slot, v) in pair.iter_mut().skip(position % 2).step_by(2).zip(&*quantized) {
                *slot = *v;
            }
        }
        Some(())
    }

    /// Attention of one position over itself and all before it, `seen` in all:
    ///
    /// `out[h] = Σₜ softmaxₜ(q[h]·k[t] / √head_dim) · v[t]`
    ///
    /// `q`, `out`: `(n_heads, head_dim)`. `None` if a value is not finite.
    pub fn attend(
        &self,
        compute: &dyn Compute,
        layer: u32,
        seen: usize,
        q: &[f32],
        out: &mut [f32],
        scratch: &mut Scratch<'_>,
    ) -> Option<()> {
        let (width, channels) = (self.shape.head_dim as usize, self.channels);
        let group = (self.shape.n_heads / self.shape.n_kv_heads) as usize * width;
        let places = seen.next_multiple_of(BLOCK);
        let together = scratch.queries(places, channels);
        for (head, (q, out)) in q.chunks_exact(group).zip(out.chunks_exact_mut(group)).enumerate() {
            let at = self.first(layer, head);
            let head = Head {
                keys: self.keys.get(at * channels..(at + places) * channels)?,
                key_scales: self.key_scales.get(at..at + places)?,
                values: self.values.get(at * channels..(at + places) * channels)?,
                value_scales: self.value_scales.get(at..at + places)?,
                seen,
                channels,
                width,
            };
            for (q, out) in q.chunks(together * width).zip(out.chunks_mut(together * width)) {
                compute.attend(&head, q, out, scratch)?;
            }
        }
        Some(())
    }
}

/// bf16 scale of one head's key or value, which is quantized into `out`. `None` if a value is not finite.
#[inline(always)]
pub(crate) fn quantize_head(x: &[f32], out: &mut [i8]) -> Option<u16> {
    let scale = bf16_scale(x)?;
    quantize_with(x, scale, out);
    Some(scale)
}

/// Attention of one query `q` `(width)`, or of two `(2, width)`, for which there is memory.
#[inline(always)]
pub(crate) fn attend<P: Passes>(
    head: &Head<'_>,
    q: &[f32],
    out: &mut [f32],
    scratch: &mut Scratch<'_>,
) -> Option<()> {
    #[cfg(feature = "prepack")]
    if q.len() > head.width {
        return attend_together::<P, 2>(head, q, out, scratch);
    }
    attend_together::<P, 1>(head, q, out, scratch)
}

/// The rows of a matrix of `N` rows.
#[inline(always)]
pub(crate) fn rows<const N: usize, T>(matrix: &[T]) -> [&[T]; N] {
    if N == 1 {
        return [matrix; N];
    }
    let mut rows = matrix.chunks((matrix.len() / N).max(1));
    core::array::from_fn(|_| rows.next().unwrap_or_default())
}

/// The same, to write to.
#[inline(always)]
pub(crate) fn rows_mut<const N: usize, T>(matrix: &mut [T]) -> [&mut [T]; N] {
    let len = if N == 1 { matrix.len() } else { matrix.len() / N };
    let mut left = matrix;
    core::array::from_fn(|_| {
        let (row, rest) = core::mem::take(&mut left).split_at_mut_checked(len).unwrap_or_default();
        left = rest;
        row
    })
}

/// Attention of `N` queries `(N, width)`.
#[inline(always)]
fn attend_together<P: Passes, const N: usize>(
    head: &Head<'_>,
    q: &[f32],
    out: &mut [f32],
    scratch: &mut Scratch<'_>,
) -> Option<()> {
    let (places, channels, width) = (head.key_scales.len(), head.channels, head.width);
    let queries = scratch.query.get_mut(..N * channels)?;
    let scores = scratch.scores.get_mut(..N * places)?;
    let weights = scratch.weights.get_mut(..N * places)?;
    let value_scales = head.value_scales.get(..places)?;

    let mut scales = [0.0; N];
    for ((scale, q), query) in scales.iter_mut().zip(rows::<N, f32>(q)).zip(rows_mut::<N, i8>(queries)) {
        *scale = quantize(q, query)? / sqrt(width as f32);
        // Not by `fill`, whose call takes as long as some positions.
        for padding in query.get_mut(width..)? {
            *padding = 0;
        }
    }
    let most = P::scores(head, queries, scales, scores);
    // Weights of the integers: the softmax's, times the values' scales.
    let (sums, weight) = P::weigh(scores, most, value_scales);
    for (most, sum) in most.into_iter().zip(sums) {
        if !most.is_finite() || !sum.is_finite() {
            return None;
        }
    }
    // Where the largest is taken for zero, so are all.
    P::integers(scores, weight.map(|most| if most < TINY { 0.0 } else { MOST / most }), weights);
    P::mix::<N>(weights, head.values, channels, out);
    for ((out, most), sum) in rows_mut::<N, f32>(out).into_iter().zip(weight).zip(sums) {
        let scale = most / (MOST * sum);
        for out in out {
            *out *= scale;
        }
    }
    Some(())
}

/// Plain Rust, which defines the results.
pub(crate) struct Plain;

impl Passes for Plain {
    #[inline(always)]
    fn scores<const N: usize>(
        head: &Head<'_>,
        queries: &[i8],
        scales: [f32; N],
        scores: &mut [f32],
    ) -> [f32; N] {
        let mut most = [f32::NEG_INFINITY; N];
        let all = rows::<N, i8>(queries).into_iter().zip(rows_mut::<N, f32>(scores)).zip(scales);
        for (((query, scores), scale), most) in all.zip(&mut most) {
            let blocks = head.keys.chunks_exact(BLOCK * query.len().max(1));
            let outputs = scores.chunks_exact_mut(BLOCK).zip(head.key_scales.chunks_exact(BLOCK));
            for (block, (scores, scales)) in blocks.zip(outputs) {
                let mut sums = [0i32; BLOCK];
                for (cell, query) in block.chunks_exact(BLOCK * CHANNELS).zip(query.chunks_exact(CHANNELS)) {
                    for (sum, key) in sums.iter_mut().zip(cell.chunks_exact(CHANNELS)) {
                        for (k, q) in key.iter().zip(query) {
                            *sum += i32::from(*k) * i32::from(*q);
                        }
                    }
                }
                for (score, (sum, key_scale)) in scores.iter_mut().zip(sums.iter().zip(scales)) {
                    *score = (scale * bf16::to_f32(*key_scale)) * *sum as f32;
                }
            }
            scores.get_mut(head.seen..).unwrap_or(&mut []).fill(f32::NEG_INFINITY);
            *most = max_of(scores);
        }
        most
    }

    #[inline(always)]
    fn weigh<const N: usize>(
        scores: &mut [f32],
        most: [f32; N],
        value_scales: &[u16],
    ) -> ([f32; N], [f32; N]) {
        let (mut sums, mut largest) = ([0.0; N], [0.0; N]);
        let all = rows_mut::<N, f32>(scores).into_iter().zip(most);
        for ((scores, most), (sum, largest)) in all.zip(sums.iter_mut().zip(&mut largest)) {
            for score in scores.iter_mut() {
                *score = exp(*score - most);
            }
            *sum = sum_of(scores, |e| e);
            for (score, scale) in scores.iter_mut().zip(value_scales) {
                *score *= bf16::to_f32(*scale);
            }
            *largest = max_of(scores);
        }
        (sums, largest)
    }

    #[inline(always)]
    fn integers<const N: usize>(scores: &[f32], inverses: [f32; N], weights: &mut [i16]) {
        let all = rows::<N, f32>(scores).into_iter().zip(rows_mut::<N, i16>(weights));
        for ((scores, weights), inverse) in all.zip(inverses) {
            for (weight, score) in weights.iter_mut().zip(scores) {
                *weight = round_i16(*score * inverse);
            }
        }
    }

    #[inline(always)]
    fn mix<const N: usize>(weights: &[i16], values: &[i8], channels: usize, out: &mut [f32]) {
        mix_from::<N>(0, weights, values, channels, out);
    }
}

/// [`Passes::mix`] for the channels from `from` on.
#[inline(always)]
pub(crate) fn mix_from<const N: usize>(
    from: usize,
    weights: &[i16],
    values: &[i8],
    channels: usize,
    out: &mut [f32],
) {
    const WIDTH: usize = 4;
    for (weights, out) in rows::<N, i16>(weights).into_iter().zip(rows_mut::<N, f32>(out)) {
        for (number, out) in out.chunks_mut(WIDTH).enumerate().skip(from / WIDTH) {
            let at = number * WIDTH * 2;
            out.fill(0.0);
            let parts = weights.chunks(SUM_POSITIONS).zip(values.chunks(SUM_POSITIONS * channels.max(1)));
            for (weights, values) in parts {
                let mut sums = [0i32; WIDTH];
                for (w, pair) in weights.chunks_exact(2).zip(values.chunks_exact(2 * channels.max(1))) {
                    let Some(pair) = pair.get(at..at + 2 * WIDTH) else { continue };
                    for (sum, v) in sums.iter_mut().zip(pair.chunks_exact(2)) {
                        *sum += i32::from(w[0]) * i32::from(v[0]) + i32::from(w[1]) * i32::from(v[1]);
                    }
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out += sum as f32;
                }
            }
        }
    }
}
