//! The buffers of a step.

use pageformer_card::Page;
use pageformer_vram::{Arena, OutOfMemory};

use crate::error::Error;
use crate::kernels::Input;
use crate::plan::ActivationLens;

/// What a step computes on its way. `B` is the number of positions of the step; widths are padded to
/// multiples of 4 where a matrix writes or reads them.
pub(crate) struct Activations<'m> {
    /// Residual stream `(B, d_model)`.
    pub x: &'m mut [f32],
    /// Normed input, attention's output, then a projection's result `(B, d_model)` or `(B, q_dim)`.
    pub h: &'m mut [f32],
    /// Attention: q, k and v `(B, q_dim + 2 · kv_dim)`. MLP: gate and up `(B, 2 · d_ff)`. At the end: logits
    /// `(logits_rows, padded vocab)`, until the next step.
    pub wide: &'m mut [f32],
    /// What the next matrix reads `(B, its inputs)`.
    pub quantized: &'m mut [i8],
    /// Its scales `(B, segments of 256)`.
    pub scales: &'m mut [f32],
    /// Attention scores of one head `(context)`, padded to whole blocks of the KV cache.
    pub scores: &'m mut [f32],
    /// The same as integer weights.
    pub weights: &'m mut [i16],
    /// Rotary frequencies `(head_dim / 2)`.
    pub frequencies: &'m mut [f32],
    /// Cosines, then sines, of every rotary pair `(B, 2, head_dim / 2)`.
    pub rope: &'m mut [f32],
    /// Embedding rows of the tokens that come next `(B, d_model)`, where the card reads ahead.
    pub coming: &'m mut [i8],
    /// Their scales `(B, segments of 256)`.
    pub coming_scales: &'m mut [f32],
    /// These tokens `(B)`.
    pub coming_tokens: &'m mut [u16],
    /// Mask page of the group that streams by.
    pub mask_page: &'m mut Page,
}

impl<'m> Activations<'m> {
    pub fn cut(arena: &mut Arena<'m>, lens: &ActivationLens) -> Result<Self, Error> {
        let page = OutOfMemory { needed: size_of::<Page>(), left: 0 };
        Ok(Self {
            x: arena.take(lens.x)?,
            h: arena.take(lens.h)?,
            wide: arena.take(lens.wide)?,
            quantized: arena.take(lens.quantized)?,
            scales: arena.take(lens.scales)?,
            scores: arena.take(lens.scores)?,
            weights: arena.take(lens.weights)?,
            frequencies: arena.take(lens.frequencies)?,
            rope: arena.take(lens.rope)?,
            coming: arena.take(lens.coming)?,
            coming_scales: arena.take(lens.coming_scales)?,
            coming_tokens: arena.take(lens.coming_tokens)?,
            mask_page: arena.take::<Page>(1)?.first_mut().ok_or(page)?,
        })
    }

    /// What a matrix reads, where it writes to, and memory for one of its mask pages.
    pub fn product(&mut self, to: &Buffer, batch: usize) -> (Input<'_>, &mut [f32], &mut Page) {
        let out = match to {
            Buffer::H => &mut *self.h,
            Buffer::Wide => &mut *self.wide,
        };
        (Input { values: self.quantized, scales: self.scales, batch }, out, self.mask_page)
    }
}

/// The buffers that a matrix writes to or a quantization reads from.
pub(crate) enum Buffer {
    H,
    Wide,
}
