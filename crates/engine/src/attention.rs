//! The KV cache and attention over it.

use pageformer_card::{Shape, bf16};
use pageformer_vram::{Arena, OutOfMemory};

use crate::numerics::{bf16_scale, dot_i8, exp, max_of, quantize, quantize_with, sqrt, sum_of};
use crate::plan::kv_lens;

/// Keys and values of all positions: int8, with one bf16 scale for each position and KV head, rounded up.
pub(crate) struct KvCache<'m> {
    keys: Half<'m>,
    values: Half<'m>,
    shape: Shape,
    context: usize,
}

/// Keys or values.
struct Half<'m> {
    /// `(n_layers, n_kv_heads, context, head_dim)`
    quantized: &'m mut [i8],
    /// `(n_layers, n_kv_heads, context)`
    scales: &'m mut [u16],
}

impl<'m> KvCache<'m> {
    pub fn cut(arena: &mut Arena<'m>, shape: &Shape, context: u32) -> Result<Self, OutOfMemory> {
        let (values, scales) = kv_lens(shape, context);
        let mut half = || Ok(Half { quantized: arena.take(values)?, scales: arena.take(scales)? });
        Ok(Self { keys: half()?, values: half()?, shape: *shape, context: context as usize })
    }

    /// The first of a layer's and head's `context` places.
    fn first(&self, layer: u32, head: usize) -> usize {
        (layer as usize * self.shape.n_kv_heads as usize + head) * self.context
    }

    /// Keeps the keys and values of `position`: `k`, `v` are `(n_kv_heads, head_dim)`. `None` if a value is not
    /// finite.
    pub fn store(&mut self, layer: u32, position: usize, k: &[f32], v: &[f32]) -> Option<()> {
        let width = self.shape.head_dim as usize;
        for (head, (k, v)) in k.chunks_exact(width).zip(v.chunks_exact(width)).enumerate() {
            let at = self.first(layer, head) + position;
            for (half, x) in [(&mut self.keys, k), (&mut self.values, v)] {
                let scale = bf16_scale(x)?;
                *half.scales.get_mut(at)? = scale;
                quantize_with(x, scale, half.quantized.get_mut(at * width..(at + 1) * width)?);
            }
        }
        Some(())
    }

    /// Attention of one position over itself and all before it, `seen` in all:
    ///
    /// `out[h] = Σₜ softmaxₜ(q[h]·k[t] / √head_dim) · v[t]`
    ///
    /// - `q`, `out`: `(n_heads, head_dim)`
    /// - `q8`: memory, `(head_dim)`; `scores`: memory, `(context)`
    ///
    /// `None` if a value is not finite. The sum over `t` runs in order of position for every channel, so that
    /// a compiler may take several channels at once.
    pub fn attend(
        &self,
        layer: u32,
        seen: usize,
        q: &[f32],
        out: &mut [f32],
        q8: &mut [i8],
        scores: &mut [f32],
    ) -> Option<()> {
        let width = self.shape.head_dim as usize;
        let queries_per_kv = (self.shape.n_heads / self.shape.n_kv_heads) as usize;
        let shrink = 1.0 / sqrt(width as f32);
        let (q8, scores) = (q8.get_mut(..width)?, scores.get_mut(..seen)?);
        for (head, (q, out)) in q.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
            let at = self.first(layer, head / queries_per_kv);
            let (keys, key_scales) = self.keys.part(at, seen, width)?;
            let (values, value_scales) = self.values.part(at, seen, width)?;

            let q_scale = quantize(q, q8)? * shrink;
            for (score, (key, scale)) in scores.iter_mut().zip(keys.chunks_exact(width).zip(key_scales)) {
                *score = (q_scale * bf16::to_f32(*scale)) * dot_i8(q8, key) as f32;
            }
            let most = max_of(scores);
            for score in scores.iter_mut() {
                *score = exp(*score - most);
            }
            let sum = sum_of(scores, |e| e);
            out.fill(0.0);
            for ((score, scale), value) in scores.iter().zip(value_scales).zip(values.chunks_exact(width)) {
                let weight = *score * bf16::to_f32(*scale);
                for (out, v) in out.iter_mut().zip(value) {
                    *out += weight * f32::from(*v);
                }
            }
            let inverse = 1.0 / sum;
            for out in out.iter_mut() {
                *out *= inverse;
            }
        }
        Some(())
    }
}

impl Half<'_> {
    /// The first `seen` places from `at` on: `(seen, width)` and `(seen)`.
    fn part(&self, at: usize, seen: usize, width: usize) -> Option<(&[i8], &[u16])> {
        Some((self.quantized.get(at * width..(at + seen) * width)?, self.scales.get(at..at + seen)?))
    }
}
