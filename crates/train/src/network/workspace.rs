//! What a pass works on and in: a batch, and buffers that are used again.

use std::ops::Range;

use crate::Example;
use crate::ops::norm::RowStats;
use crate::ops::{attention, dropout};
use crate::rng::Rng;

/// Sequences behind each other, and which of their tokens count.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub inputs: Vec<u32>,         // (n)
    pub spans: Vec<Range<usize>>, // rows of each sequence
    pub scored: Vec<usize>,       // rows whose prediction counts
    pub targets: Vec<u32>,        // (scored)
}

impl Packed {
    pub(crate) fn new<'a>(examples: impl IntoIterator<Item = &'a Example>) -> Self {
        let mut packed = Packed::default();
        for example in examples {
            let first = packed.inputs.len();
            packed.inputs.extend_from_slice(example.inputs());
            packed.spans.push(first..packed.inputs.len());
            for (i, target) in example.targets() {
                packed.scored.push(first + i);
                packed.targets.push(target);
            }
        }
        packed
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.inputs.len()
    }
}

/// What the forward pass keeps of a layer.
#[derive(Debug, Default)]
pub(super) struct LayerActivations {
    pub input: Vec<f32>, // (n, d), the residual stream before the layer
    pub stats1: Vec<RowStats>,
    pub normed1: Vec<f32>,  // (n, d)
    pub qkv: Vec<f32>,      // (n, q + 2·kv), after RoPE
    pub lse: Vec<f32>,      // (n, n_heads)
    pub attended: Vec<f32>, // (n, q)
    pub middle: Vec<f32>,   // (n, d), the residual stream after attention
    pub stats2: Vec<RowStats>,
    pub normed2: Vec<f32>,   // (n, d)
    pub hidden: Vec<f32>,    // (n, ff or 2·ff), gate first
    pub activated: Vec<f32>, // (n, ff)
}

/// Buffers of a forward and backward pass; grow to the largest batch and are used again.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub(super) layers: Vec<LayerActivations>,
    pub output: Vec<f32>,   // (n, d), the residual stream after the last layer
    pub gathered: Vec<f32>, // (scored, d), its rows that are scored
    pub stats: Vec<RowStats>,
    pub normed: Vec<f32>, // (scored, d), the head's input
    pub attention: attention::Scratch,
    // Gradients.
    pub dresidual: Vec<f32>,      // (n, d)
    pub dwidth: Vec<f32>,         // (n, d), of a matrix's input
    pub dwide: Vec<f32>,          // (n, max(ff, q))
    pub dqkv: Vec<f32>,           // (n, q + 2·kv)
    pub dgathered: Vec<f32>,      // (scored, d)
    pub dnormed: Vec<f32>,        // (scored, d)
    pub logits: Vec<f32>,         // (HEAD_ROWS, vocab)
    pub teacher: Vec<f32>,        // (HEAD_ROWS, vocab)
    pub teacher_normed: Vec<f32>, // (scored, teacher's d)
}

/// The probability of dropping a value, and the stream of random numbers of this batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    pub rate: f32,
    pub seed: u64,
    pub batch: u64,
}

impl Dropout {
    pub(super) fn apply(this: Option<Dropout>, x: &mut [f32], layer: usize, branch: u64) {
        if let Some(Dropout { rate, seed, batch }) = this {
            let rng =
                Rng::new(seed ^ batch.wrapping_mul(0xA076_1D64_78BD_642F), (layer as u64) << 2 | branch);
            dropout::apply(x, rate, rng);
        }
    }
}

/// Makes `buffer` hold `len` values, whatever they are.
pub(super) fn sized<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    buffer.resize(len, T::default());
    buffer
}
