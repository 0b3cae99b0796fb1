//! The decoder: its forward pass as the engine computes it, and its backward pass.
//!
//! A pass works on *packed* sequences: the rows of several sequences behind each other, without padding. Everything but attention treats a
//! row as a row. In the comments `n` is the number of rows, `d` the model's width, `q` and `kv` the widths of queries and keys,
//! `ff` the MLP's.

mod backward;
mod workspace;

use std::ops::Range;

use pageformer_card::Mlp;

use crate::linalg::{mat, mat_mut, matmul_nt};
use crate::ops::attention::{self, Heads};
use crate::ops::norm::{self, NormWeights};
use crate::ops::rope::{RopeTable, Turn};
use crate::ops::{loss, mlp, quant};
use crate::params::{Layout, NormPlace, Role, View};
use crate::vector::add_assign;
use crate::{Distillation, LossSums};

pub(crate) use backward::Objective;
pub(crate) use workspace::{Dropout, Packed, Workspace};
use workspace::{LayerActivations, sized};

/// Rows whose logits are in memory at a time.
const HEAD_ROWS: usize = 128;

/// Which numbers a forward pass computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// Plain f32.
    #[default]
    F32,
    /// The engine's: int8 inputs of every matrix, int8 queries and KV cache. The weights are rounded by whoever prepares them
    /// (see [`crate::effective_weights`]).
    Int8,
}

/// A network that teaches: its weights as its own arithmetic needs them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Teacher<'a> {
    pub network: &'a Network,
    pub weights: &'a [f32],
    pub distillation: Distillation,
}

/// The forward and backward pass of a shape.
#[derive(Clone, Debug)]
pub struct Network {
    layout: Layout,
    arithmetic: Arithmetic,
    heads: Heads,
    rope: RopeTable,
}

impl Network {
    /// The network of a layout.
    pub fn new(layout: Layout, arithmetic: Arithmetic) -> Self {
        let shape = layout.shape();
        let heads = Heads {
            queries: shape.n_heads as usize,
            keys: shape.n_kv_heads as usize,
            dim: shape.head_dim as usize,
        };
        let rope = RopeTable::new(shape.max_seq as usize, heads.dim, shape.rope_theta);
        Network { layout, arithmetic, heads, rope }
    }

    /// Where the weights lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Which numbers it computes with.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    fn width(&self) -> usize {
        self.layout.shape().d_model as usize
    }

    fn ff(&self) -> usize {
        self.layout.shape().d_ff as usize
    }

    /// Width of the MLP's first product.
    fn hidden(&self) -> usize {
        match self.layout.shape().mlp {
            Mlp::Gelu => self.ff(),
            Mlp::SwiGlu => 2 * self.ff(),
        }
    }

    fn norm<'a>(&self, weights: &'a [f32], place: &NormPlace) -> NormWeights<'a> {
        NormWeights {
            gain: &weights[place.gain.clone()],
            bias: place.bias.clone().map(|b| &weights[b]),
            eps: self.layout.shape().norm_eps,
        }
    }

    /// Rounds the input of a matrix, where the engine does.
    fn round(&self, x: &mut [f32], cols: usize) {
        if self.arithmetic == Arithmetic::Int8 {
            quant::activations(x, cols);
        }
    }

    /// From tokens to the head's input at the scored rows, in `ws.normed`.
    fn forward(&self, weights: &[f32], batch: &Packed, ws: &mut Workspace, dropout: Option<Dropout>) {
        let (n, d, ff, hidden) = (batch.rows(), self.width(), self.ff(), self.hidden());
        let (q, row) = (self.heads.queries * self.heads.dim, self.heads.row());
        let embedding = &weights[self.layout.embedding.clone()];
        let depth = self.layout.layers.len();
        if ws.layers.len() < depth {
            ws.layers.resize_with(depth, LayerActivations::default);
        }

        let x = sized(&mut ws.output, n * d);
        for (x, &token) in x.chunks_exact_mut(d).zip(&batch.inputs) {
            x.copy_from_slice(&embedding[token as usize * d..][..d]);
        }
        Dropout::apply(dropout, x, depth, 0);

        for (l, (place, acts)) in self.layout.layers.iter().zip(&mut ws.layers).enumerate() {
            let input = sized(&mut acts.input, n * d);
            input.copy_from_slice(x);

            let normed = sized(&mut acts.normed1, n * d);
            let ln1 = self.norm(weights, &place.ln1);
            norm::forward(normed, sized(&mut acts.stats1, n), input, ln1);
            self.round(normed, d);
            let qkv = sized(&mut acts.qkv, n * row);
            let w = mat(&weights[place.qkv.clone()], row, d);
            matmul_nt(mat_mut(qkv, n, row), 0.0, 1.0, mat(normed, n, d), w);
            self.turn(qkv, batch, Turn::Forward);
            if self.arithmetic == Arithmetic::Int8 {
                quant::queries_keys_values(qkv, row, q, self.heads.dim);
            }
            let attended = sized(&mut acts.attended, n * q);
            let lse = sized(&mut acts.lse, n * self.heads.queries);
            attention::forward(attended, lse, qkv, &batch.spans, self.heads, &mut ws.attention);
            self.round(attended, q);
            let middle = sized(&mut acts.middle, n * d);
            let w = mat(&weights[place.wo.clone()], d, q);
            add_branch(middle, input, mat(attended, n, q), w, |branch| {
                Dropout::apply(dropout, branch, l, 1);
            });

            let normed = sized(&mut acts.normed2, n * d);
            let ln2 = self.norm(weights, &place.ln2);
            norm::forward(normed, sized(&mut acts.stats2, n), middle, ln2);
            self.round(normed, d);
            let wide = sized(&mut acts.hidden, n * hidden);
            let w = mat(&weights[place.hidden.clone()], hidden, d);
            matmul_nt(mat_mut(wide, n, hidden), 0.0, 1.0, mat(normed, n, d), w);
            let activated = sized(&mut acts.activated, n * ff);
            match self.layout.shape().mlp {
                Mlp::Gelu => mlp::gelu_forward(activated, wide),
                Mlp::SwiGlu => mlp::swiglu_forward(activated, wide, ff),
            }
            self.round(activated, ff);
            let w = mat(&weights[place.w2.clone()], d, ff);
            add_branch(x, middle, mat(activated, n, ff), w, |branch| {
                Dropout::apply(dropout, branch, l, 2);
            });
        }

        let scored = batch.scored.len();
        let gathered = sized(&mut ws.gathered, scored * d);
        for (to, &from) in gathered.chunks_exact_mut(d).zip(&batch.scored) {
            to.copy_from_slice(&x[from * d..][..d]);
        }
        let normed = sized(&mut ws.normed, scored * d);
        match &self.layout.final_norm {
            None => normed.copy_from_slice(gathered),
            Some(place) => {
                let stats = sized(&mut ws.stats, scored);
                norm::forward(normed, stats, gathered, self.norm(weights, place));
            }
        }
        self.round(normed, d);
    }

    /// Turns queries and keys of each sequence by their positions.
    fn turn(&self, qkv: &mut [f32], batch: &Packed, turn: Turn) {
        let row = self.heads.row();
        for span in &batch.spans {
            let rows = &mut qkv[span.start * row..span.end * row];
            self.rope.apply(rows, row, self.heads.queries + self.heads.keys, turn);
        }
    }

    /// Loss over the scored tokens, without gradients.
    pub(crate) fn evaluate(&self, weights: &[f32], batch: &Packed, ws: &mut Workspace) -> LossSums {
        let mut sums = LossSums::default();
        self.forward(weights, batch, ws, None);
        for (rows, targets) in head_blocks(batch) {
            let logits = self.logits(weights, &ws.normed, rows, &mut ws.logits);
            sums += loss::cross_entropy(logits, targets, 1.0);
        }
        sums
    }

    /// Logits (rows, vocab) of the head's inputs `rows` of `normed`.
    fn logits<'a>(
        &self,
        weights: &[f32],
        normed: &[f32],
        rows: Range<usize>,
        logits: &'a mut Vec<f32>,
    ) -> &'a mut [f32] {
        let (d, vocab) = (self.width(), self.layout.shape().vocab as usize);
        let head = mat(&weights[self.layout.head.clone()], vocab, d);
        let logits = sized(logits, rows.len() * vocab);
        let normed = mat(&normed[rows.start * d..], rows.len(), d);
        matmul_nt(mat_mut(logits, rows.len(), vocab), 0.0, 1.0, normed, head);
        logits
    }

    /// Logits after each token of a sequence, which must be inside of vocabulary and positions. (tokens, vocab)
    pub fn sequence_logits(&self, weights: &[f32], tokens: &[u32]) -> Vec<f32> {
        let n = tokens.len();
        let batch = Packed {
            inputs: tokens.into(),
            spans: std::iter::once(0..n).collect(),
            scored: (0..n).collect(),
            targets: vec![0; n],
        };
        let (mut ws, mut logits) = (Workspace::default(), vec![]);
        self.forward(weights, &batch, &mut ws, None);
        self.logits(weights, &ws.normed, 0..n, &mut logits);
        logits
    }

    /// One sum for each input of each matrix that is not the embedding; empty for other tensors.
    pub(crate) fn no_squares(&self) -> Vec<Vec<f32>> {
        let inputs = |v: &View| if v.role == Role::Matrix { v.cols } else { 0 };
        self.layout.views().iter().map(|v| vec![0.0; inputs(v)]).collect()
    }

    /// Adds the squares of each matrix's inputs, over all rows, to `squares`, which has the form of [`Network::no_squares`].
    pub(crate) fn add_input_squares(
        &self,
        squares: &mut [Vec<f32>],
        weights: &[f32],
        batch: &Packed,
        ws: &mut Workspace,
    ) {
        self.forward(weights, batch, ws, None);
        let places = self.layout.layers.iter().zip(&ws.layers).flat_map(|(place, acts)| {
            [
                (&place.qkv, &acts.normed1),
                (&place.wo, &acts.attended),
                (&place.hidden, &acts.normed2),
                (&place.w2, &acts.activated),
            ]
        });
        for (place, inputs) in places.chain([(&self.layout.head, &ws.normed)]) {
            let views = self.layout.views().iter().zip(&mut *squares);
            let readers = views.filter(|(v, s)| !s.is_empty() && place.contains(&v.range.start));
            for (view, squares) in readers {
                for row in inputs.chunks_exact(view.cols) {
                    squares.iter_mut().zip(row).for_each(|(s, x)| *s += x * x);
                }
            }
        }
    }
}

/// Blocks of scored rows and their targets.
fn head_blocks(batch: &Packed) -> impl Iterator<Item = (Range<usize>, &[u32])> {
    batch.targets.chunks(HEAD_ROWS).enumerate().map(|(block, targets)| {
        let first = block * HEAD_ROWS;
        (first..first + targets.len(), targets)
    })
}

/// `sum = residual + drop(x · wᵀ)`.
fn add_branch(
    sum: &mut [f32],
    residual: &[f32],
    x: crate::linalg::Mat,
    w: crate::linalg::Mat,
    drop: impl Fn(&mut [f32]),
) {
    let (n, d) = (x.rows(), w.rows());
    matmul_nt(mat_mut(sum, n, d), 0.0, 1.0, x, w);
    drop(sum);
    add_assign(sum, residual);
}
