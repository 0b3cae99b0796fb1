//! The forward pass: one pass over the tape for up to `batch` positions.

mod coming;
#[cfg(feature = "prepack")]
mod packed;

use core::ops::Range;

use pageformer_card::matrix::TILE_INPUTS;
use pageformer_card::page::FLOATS_PER_PAGE;
use pageformer_card::{Manifest, Mlp, Norm, Page, Role, Shape, Tensor, TensorKind, TensorTable};
use pageformer_vram::{Arena, Card, CardFile, Frames, Vram};

use crate::activations::{Activations, Buffer};
use crate::attention::{KvCache, Scratch};
use crate::error::Error;
use crate::kernels::{Compute, Kernel, Team};
use crate::matrix::MatrixPages;
use crate::numerics::{rotary_frequency, rotation};
use crate::plan::{ActivationLens, Needs, Plan};
#[cfg(feature = "prepack")]
use crate::{kernels::Prepacked, matrix::prepacked};
use coming::Coming;
#[cfg(feature = "prepack")]
use packed::Best;

/// A model on a card, ready to compute.
pub struct Engine<'m, C> {
    shape: Shape,
    table: TensorTable<'m>,
    vram: Vram<'m, C>,
    kv: KvCache<'m>,
    act: Activations<'m>,
    plan: Plan,
    kernel: Kernel,
    team: Option<&'m dyn Team>,
    /// Matrices that are packed for the kernel, for each tensor of the shape; or nothing.
    #[cfg(feature = "prepack")]
    prepacked: alloc::vec::Vec<Option<Prepacked>>,
    #[cfg(feature = "prepack")]
    best: Best,
    /// Scores and weights of attention, for two queries at once; or nothing.
    #[cfg(feature = "prepack")]
    pair: (alloc::vec::Vec<f32>, alloc::vec::Vec<i16>),
    /// Rows of the embedding that were looked up for the next pass.
    coming: Coming,
    position: u32,
    passes: u64,
}

impl<'m, C: Card> Engine<'m, C> {
    /// Cuts the memory as `plan` says and loads the pages that stay. The table, and the page locations if
    /// the layout needs them, have been cut from the same buffer before.
    ///
    /// # Errors
    /// If a file has the wrong size, a page is bad, or `arena` is smaller than the plan.
    pub fn start(
        card: C,
        manifest: &Manifest,
        table: TensorTable<'m>,
        plan: &Plan,
        arena: &mut Arena<'m>,
        kernel: Kernel,
    ) -> Result<Self, Error> {
        let shape = manifest.shape;
        let needs = Needs::new(manifest, &table);
        for (file, pages) in [
            (CardFile::Weights, needs.weights_pages),
            (CardFile::Sums, needs.sums().pages()),
            (CardFile::Tokenizer, needs.tokenizer_pages),
        ] {
            let (expected, found) = (u64::from(pages) * size_of::<Page>() as u64, card.bytes(file));
            if found != expected {
                return Err(Error::FileSize { file, expected, found });
            }
        }
        let meta = arena.take(if plan.page_metadata { needs.weights_pages as usize } else { 0 })?;
        let kv = KvCache::cut(arena, &shape, plan.context)?;
        let act = Activations::cut(
            arena,
            &ActivationLens::new(&shape, plan.context, plan.batch, plan.logits_rows, plan.reads_ahead),
        )?;
        for (pair, frequency) in (0..).zip(act.frequencies.iter_mut()) {
            *frequency = rotary_frequency(shape.rope_theta, shape.head_dim, pair);
        }
        let frames = Frames {
            sums: arena.take(plan.sum_pages as usize)?,
            side: arena.take(plan.side_pages as usize)?,
            side_tags: arena.take(plan.side_pages as usize)?,
            ring: arena.take(plan.pinning.ring as usize)?,
            pinned: match plan.pinned_apart {
                true => arena.take_apart(plan.pinning.pinned as usize)?,
                false => arena.take(plan.pinning.pinned as usize)?,
            },
            meta,
        };
        let vram =
            Vram::start(card, needs.sums(), plan.pinning, frames).map_err(|fault| locate(&table, fault))?;
        Ok(Self {
            shape,
            table,
            vram,
            kv,
            act,
            plan: *plan,
            kernel,
            team: None,
            #[cfg(feature = "prepack")]
            prepacked: alloc::vec::Vec::new(),
            #[cfg(feature = "prepack")]
            best: Best::default(),
            #[cfg(feature = "prepack")]
            pair: Default::default(),
            coming: Coming::default(),
            position: 0,
            passes: 0,
        })
    }

    /// One pass over the tape: appends `tokens` (1 to `batch` of them) to the sequence and returns the logits
    /// of the last: `(vocab)`.
    ///
    /// # Errors
    /// If the tokens do not fit, a page is bad, or a number is not finite that the logits or later tokens depend on. The sequence is as before then.
    pub fn step(&mut self, tokens: &[u16]) -> Result<&mut [f32], Error> {
        self.forward(tokens, 1, &[], None)?;
        Ok(self.logits(0))
    }

    /// As [`Self::step`], but without logits, for tokens that others follow: nothing behind the last layer's keys and values is read. A card that reads ahead
    /// has time to look up the `next` of these, as far as they are known.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn read(&mut self, tokens: &[u16], next: &[u16]) -> Result<(), Error> {
        self.forward(tokens, 0, next, None).map(|_| ())
    }

    /// As [`Self::step`], but returns the token whose logit is the largest, the first of them if several are. The others need not be computed: with a large
    /// head that is packed by `prepack`, half of it is read.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn most_likely(&mut self, tokens: &[u16]) -> Result<u16, Error> {
        self.ask_for_best(true);
        self.forward(tokens, 1, &[], None)?;
        let compute = self.kernel.compute();
        Ok(self.best().unwrap_or_else(|| compute.argmax(self.logits(0)) as u16))
    }

    /// Says that of the next pass nobody wants to know more than the most likely token, if it has one row of logits; or that somebody does.
    pub(crate) fn ask_for_best(&mut self, only_best: bool) {
        #[cfg(feature = "prepack")]
        {
            (self.best.only, self.best.token) = (only_best, None);
        }
        #[cfg(not(feature = "prepack"))]
        let _ = only_best;
    }

    /// The most likely token of the last pass, if it was found without logits: then there are none.
    pub(crate) fn best(&self) -> Option<u16> {
        #[cfg(feature = "prepack")]
        return self.best.token;
        #[cfg(not(feature = "prepack"))]
        None
    }

    /// The logits of a row of the last step: `(vocab)`.
    pub(crate) fn logits(&mut self, row: usize) -> &mut [f32] {
        let vocab = self.shape.vocab as usize;
        let first = row * vocab.next_multiple_of(4);
        self.act.wide.get_mut(first..first + vocab).unwrap_or(&mut [])
    }

    /// As [`Self::step`], but with the logits of every position: `(tokens, vocab)`, as an iterator over rows.
    /// The plan must keep them (`all_logits`).
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_all(&mut self, tokens: &[u16]) -> Result<impl Iterator<Item = &[f32]>, Error> {
        let rows = self.forward(tokens, tokens.len(), &[], None)?;
        let vocab = self.shape.vocab as usize;
        let stride = vocab.next_multiple_of(4);
        Ok(self.act.wide.chunks_exact(stride).take(rows).map(move |row| row.get(..vocab).unwrap_or(row)))
    }

    /// The pass. Logits of the last `wanted` positions (at most the plan's) are kept; says how many. Of other positions, nobody needs more than their keys and
    /// values: they end in the last layer, and a pass without logits does.
    ///
    /// A card that is read while something is computed has time for other things `meanwhile`: that is called when the embedding has been read, in the middle of the layers and behind them. If it answers no, the pass ends: with
    /// no rows, and the sequence is as before. A pass without logits has nothing to do meanwhile.
    pub(crate) fn forward(
        &mut self,
        tokens: &[u16],
        wanted: usize,
        next: &[u16],
        mut meanwhile: Option<Meanwhile<'_, 'm, C>>,
    ) -> Result<usize, Error> {
        let shape = self.shape;
        let batch = tokens.len();
        #[cfg(feature = "prepack")]
        let only_best = core::mem::take(&mut self.best.only);
        self.ask_for_best(false);
        if batch == 0 || batch > self.plan.batch as usize {
            return Err(Error::Plan(crate::PlanError::Batch(batch as u32)));
        }
        if self.position as usize + batch > self.plan.context as usize {
            return Err(Error::ContextFull { context: self.plan.context, used: self.position });
        }
        let (d, q_dim, kv_dim) = (shape.d_model as usize, shape.q_dim() as usize, shape.kv_dim() as usize);
        let [d_pad, q_pad, kv_pad, ff_pad] = [shape.d_model, shape.q_dim(), shape.kv_dim(), shape.d_ff]
            .map(|n| n.next_multiple_of(4) as usize);
        let qkv_pad = q_pad + 2 * kv_pad;
        let compute = self.kernel.compute();
        self.passes += 1;
        let rows = wanted.min(self.plan.logits_rows as usize).min(batch);
        let is_prompt = wanted == 0;
        debug_assert!(!is_prompt || meanwhile.is_none());
        if self.reads_ahead() {
            let (end, without) = match is_prompt {
                true => (prompts_end(&shape, &self.table), last_queries(&shape, &self.table)),
                false => (self.plan.pinning.tape, 0..0),
            };
            self.vram.begin_pass(end, without);
        }

        // x = embedding of each token
        let embedding = matrix_of(&shape, &self.table, Tensor::Embedding)?;
        let there = self.looked_up(tokens);
        for (at, (token, x)) in tokens.iter().zip(self.act.x.chunks_mut(d_pad)).enumerate() {
            if u32::from(*token) >= shape.vocab {
                return Err(Error::Token(*token));
            }
            let mut put = |to: usize, weight: i8, scale: f32| {
                if let Some(x) = x.get_mut(to) {
                    *x = f32::from(weight) * scale;
                }
            };
            if at < there {
                let of = |width: usize| at * width..(at + 1) * width;
                let row = self.act.coming.get(of(d_pad)).unwrap_or(&[]);
                let scales =
                    self.act.coming_scales.get(of(embedding.dims.segments() as usize)).unwrap_or(&[]);
                for (to, weight) in row.iter().take(d).enumerate() {
                    put(to, *weight, scales.get(to / TILE_INPUTS).copied().unwrap_or(0.0));
                }
            } else {
                embedding.row(&mut self.vram, u32::from(*token), self.act.scales, put)?;
            }
        }
        self.will_come(next);
        if self.is_over(0, &mut meanwhile) {
            return Ok(0);
        }
        self.fill_rope(batch);

        // Positions that are gone on with, and how many others are in front of them.
        let (mut batch, mut ended) = (batch, 0);
        for layer in 0..shape.n_layers {
            let is_last = layer + 1 == shape.n_layers;
            // h = norm(x); q, k, v = W·h: (B, qkv_pad)
            self.norm(Tensor::Layer(layer, Role::Ln1), batch)?;
            self.quantize(Tensor::Layer(layer, Role::Ln1), &Buffer::H, batch, (d, d_pad))?;
            let matrices = QKV.map(|role| Tensor::Layer(layer, role));
            let (q_pad, qkv_pad) = match is_last && is_prompt && self.pages_are_read() {
                // No query is asked.
                true => (0, 2 * kv_pad),
                false => (q_pad, qkv_pad),
            };
            let matrices = if q_pad == 0 { &matrices[1..] } else { &matrices };
            self.multiply(matrices, &Buffer::Wide, (batch, qkv_pad), None)?;

            // h = attention(q, cache with k and v)
            let act = &mut self.act;
            let not_finite = |role| Error::NotFinite(Tensor::Layer(layer, role));
            for (b, row) in act.wide.chunks_mut(qkv_pad).take(batch).enumerate() {
                let (k, v) = row.get_mut(q_pad..).unwrap_or(&mut []).split_at_mut(kv_pad);
                let (Some(k), Some(v)) = (k.get_mut(..kv_dim), v.get(..kv_dim)) else { continue };
                compute.rotate(k, angles(act.rope, &shape, b));
                let position = self.position as usize + b;
                let stored = self.kv.store(compute, layer, position, k, v, act.quantized);
                stored.ok_or(not_finite(Role::Wk))?;
            }
            if is_last {
                (ended, batch) = (batch - rows, rows);
                act.x.copy_within(ended * d_pad..(ended + batch) * d_pad, 0);
            }
            if batch == 0 {
                break;
            }
            let mut scratch = Scratch { query: act.quantized, scores: act.scores, weights: act.weights };
            #[cfg(feature = "prepack")]
            if !self.pair.0.is_empty() {
                (scratch.scores, scratch.weights) = (&mut self.pair.0, &mut self.pair.1);
            }
            let rows = act.wide.chunks_mut(qkv_pad).skip(ended).zip(act.h.chunks_mut(q_pad));
            for (b, (q, h)) in (ended..).zip(rows.take(batch)) {
                let (Some(q), Some(h)) = (q.get_mut(..q_dim), h.get_mut(..q_dim)) else { continue };
                compute.rotate(q, angles(act.rope, &shape, b));
                let seen = self.position as usize + b + 1;
                let attended = self.kv.attend(compute, layer, seen, q, h, &mut scratch);
                attended.ok_or(not_finite(Role::Wq))?;
            }
            self.look_ahead();

            // x += Wo·h
            self.quantize(Tensor::Layer(layer, Role::Wv), &Buffer::H, batch, (q_dim, q_pad))?;
            self.multiply(&[Tensor::Layer(layer, Role::Wo)], &Buffer::H, (batch, d_pad), None)?;
            self.add_to_residual(batch);
            if self.is_over(2 * layer + 1, &mut meanwhile) {
                return Ok(0);
            }

            // h = norm(x); x += W2·mlp(h)
            self.norm(Tensor::Layer(layer, Role::Ln2), batch)?;
            self.quantize(Tensor::Layer(layer, Role::Ln2), &Buffer::H, batch, (d, d_pad))?;
            let matrices = GATE_UP.map(|role| Tensor::Layer(layer, role));
            let (matrices, hidden) = match shape.mlp {
                Mlp::Gelu => (&matrices[1..], ff_pad),
                Mlp::SwiGlu => (&matrices[..], 2 * ff_pad),
            };
            let done = self.multiply(matrices, &Buffer::Wide, (batch, hidden), Some(shape.mlp))?;
            activate(compute, shape.mlp, self.act.wide.chunks_exact_mut(hidden).take(batch), done..hidden);
            let d_ff = shape.d_ff as usize;
            self.quantize(Tensor::Layer(layer, Role::W1), &Buffer::Wide, batch, (d_ff, hidden))?;
            self.multiply(&[Tensor::Layer(layer, Role::W2)], &Buffer::H, (batch, d_pad), None)?;
            self.add_to_residual(batch);
            if self.is_over(2 * layer + 2, &mut meanwhile) {
                return Ok(0);
            }
        }

        if rows == 0 {
            self.position += ended as u32;
            return Ok(0);
        }
        // logits = head · norm(x)
        let last_norm = match shape.final_norm {
            true => {
                self.norm(Tensor::FinalLn, rows)?;
                Tensor::FinalLn
            }
            false => {
                self.act.h[..rows * d_pad].copy_from_slice(&self.act.x[..rows * d_pad]);
                Tensor::Layer(shape.n_layers - 1, Role::W2)
            }
        };
        self.quantize(last_norm, &Buffer::H, rows, (d, d_pad))?;
        let head = head_of(&shape);
        #[cfg(feature = "prepack")]
        if only_best && rows == 1 && self.find_best(head)? {
            self.position += (ended + rows) as u32;
            return Ok(rows);
        }
        let vocab_pad = shape.vocab.next_multiple_of(4) as usize;
        self.multiply(&[head], &Buffer::Wide, (rows, vocab_pad), None)?;
        let logits = self.act.wide.get(..rows * vocab_pad);
        if !compute.all_finite(logits.unwrap_or(&[])) {
            return Err(Error::NotFinite(head));
        }
        self.position += (ended + rows) as u32;
        Ok(rows)
    }

    /// Does what is to be done after so many half layers of a pass; whether the pass is over then.
    #[inline]
    fn is_over(&mut self, halves: u32, meanwhile: &mut Option<Meanwhile<'_, 'm, C>>) -> bool {
        let all = 2 * self.shape.n_layers;
        match meanwhile {
            // The first is known when compiling: a card that does not read ahead costs no code.
            Some(meanwhile) if self.reads_ahead() => {
                let due = [0, all / 2, all].contains(&halves);
                due && !meanwhile(&mut self.vram)
            }
            _ => false,
        }
    }

    /// Whether matrices are multiplied from their pages, and not from where they are packed.
    fn pages_are_read(&self) -> bool {
        #[cfg(feature = "prepack")]
        return self.prepacked.is_empty();
        #[cfg(not(feature = "prepack"))]
        true
    }

    /// Whether the card is read while something is computed.
    #[inline]
    pub(crate) fn reads_ahead(&self) -> bool {
        self.vram.card().read_ahead() > 0
    }

    /// `out = W·quantized` for matrices whose outputs, padded, lie one behind the other in a row: `(batch, stride)`. The first outputs of a `hidden` layer are
    /// activated, too, as many as it says: while pages are read ahead.
    fn multiply(
        &mut self,
        tensors: &[Tensor],
        out: &Buffer,
        (batch, stride): (usize, usize),
        hidden: Option<Mlp>,
    ) -> Result<usize, Error> {
        #[cfg(feature = "prepack")]
        if !self.prepacked.is_empty()
            && let Some(index) = self.shape.tensor_index(tensors[0])
            && let Some(Some(packed)) = self.prepacked.get(index as usize)
        {
            let (input, y, _) = self.act.product(out, batch);
            if prepacked::multiply(packed, self.kernel, self.team, input, y) {
                return Ok(0);
            }
        }
        let (compute, ahead) = (self.kernel.compute(), self.reads_ahead());
        let (mut first, mut activated) = (0, 0);
        for (left, tensor) in (1..=tensors.len()).rev().zip(tensors) {
            let matrix = matrix_of(&self.shape, &self.table, *tensor)?;
            let (input, y, mask_page) = self.act.product(out, batch);
            let finished = |y: &mut [f32], outputs: usize| {
                if ahead
                    && left == 1
                    && let Some(mlp) = hidden
                {
                    activate(compute, mlp, y.chunks_exact_mut(stride).take(batch), activated..outputs);
                    activated = outputs;
                }
            };
            let (who, y) = ((self.kernel, self.team), (y, first, stride));
            let done = matrix.multiply(&mut self.vram, who, input, y, mask_page, finished);
            // A run that was read ahead may end in another tensor.
            done.map_err(|error| match error {
                Error::Page(fault, _) => locate(&self.table, fault),
                other => other,
            })?;
            first += matrix.dims.padded_outputs() as usize;
            self.look_ahead();
        }
        Ok(activated)
    }

    /// `quantized, scales = buffer`: `(batch, width)`, of rows of `stride`. `from` is the tensor that filled the buffer.
    fn quantize(
        &mut self,
        from: Tensor,
        buffer: &Buffer,
        batch: usize,
        (width, stride): (usize, usize),
    ) -> Result<(), Error> {
        let (act, compute) = (&mut self.act, self.kernel.compute());
        let values = match buffer {
            Buffer::H => &*act.h,
            Buffer::Wide => &*act.wide,
        };
        let rows = values.chunks(stride).zip(act.quantized.chunks_mut(width.next_multiple_of(4)));
        let scales = act.scales.chunks_mut(width.div_ceil(256));
        for ((values, out), scales) in rows.zip(scales).take(batch) {
            let values = values.get(..width).unwrap_or(values);
            compute.quantize(values, out, scales).ok_or(Error::NotFinite(from))?;
        }
        Ok(())
    }

    /// `h = norm(x) · gain (+ bias)`: `(batch, d_model)`.
    fn norm(&mut self, tensor: Tensor, batch: usize) -> Result<(), Error> {
        let d = self.shape.d_model as usize;
        let (d_pad, eps) = (d.next_multiple_of(4), self.shape.norm_eps);
        let (compute, centred) = (self.kernel.compute(), self.shape.norm == Norm::Layer);
        let (x, h) = (&*self.act.x, &mut *self.act.h);
        for (x, h) in x.chunks(d_pad).zip(h.chunks_mut(d_pad)).take(batch) {
            let (x, h) = (x.get(..d).unwrap_or(x), h.get_mut(..d).unwrap_or(&mut []));
            compute.normalize(x, centred, eps, h);
        }
        // The vector streams by: gains, then biases.
        let mut at = 0;
        for page in self.table.pages_of(tensor) {
            let bytes = self.vram.pages(page, 1).map_err(|fault| locate(&self.table, fault))?;
            let Some(bytes) = bytes.first() else { continue };
            let gains = d.saturating_sub(at).min(FLOATS_PER_PAGE);
            let (gain, bias) = bytes.split_at(gains * 4);
            for h in h.chunks_mut(d_pad).take(batch) {
                if let Some(h) = h.get_mut(at.min(d)..d) {
                    compute.scale_by(h, gain);
                }
                if let Some(h) = h.get_mut((at + gains).saturating_sub(d)..d)
                    && centred
                    && gains < FLOATS_PER_PAGE
                {
                    compute.shift_by(h, bias);
                }
            }
            at += FLOATS_PER_PAGE;
        }
        Ok(())
    }

    /// `x += h`.
    fn add_to_residual(&mut self, batch: usize) {
        let len = batch * self.shape.d_model.next_multiple_of(4) as usize;
        if let (Some(x), Some(h)) = (self.act.x.get_mut(..len), self.act.h.get(..len)) {
            self.kernel.compute().add(x, h);
        }
    }

    /// Cosines and sines of the next `batch` positions.
    fn fill_rope(&mut self, batch: usize) {
        let (act, width) = (&mut self.act, self.shape.head_dim as usize);
        for (position, angles) in (self.position..).zip(act.rope.chunks_exact_mut(width).take(batch)) {
            let (cosines, sines) = angles.split_at_mut(width / 2);
            for ((cos, sin), frequency) in cosines.iter_mut().zip(sines).zip(act.frequencies.iter()) {
                (*cos, *sin) = rotation(*frequency, position);
            }
        }
    }

    /// Forgets everything from position `position` on.
    pub fn truncate(&mut self, position: u32) {
        self.position = self.position.min(position);
    }

    /// Positions in use.
    pub fn position(&self) -> u32 {
        self.position
    }

    /// Passes over the tape so far.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The model's shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The kernel.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Lets a team help with large matrices that lie in memory, or nobody any more. It changes no bit, and takes the feature `threads`.
    pub fn share_with(&mut self, team: Option<&'m dyn Team>) {
        self.team = team;
    }

    /// The pages: statistics, metadata, the card.
    pub fn vram(&self) -> &Vram<'m, C> {
        &self.vram
    }

    /// The pages, to read from or to change the card's wrappers.
    pub fn vram_mut(&mut self) -> &mut Vram<'m, C> {
        &mut self.vram
    }

    /// The pages, and memory that is free between steps, for the tokenizer.
    pub(crate) fn vram_and_scratch(&mut self) -> (&mut Vram<'m, C>, &mut [f32]) {
        (&mut self.vram, self.act.wide)
    }

    /// Which tensor each page belongs to.
    pub fn table(&self) -> &TensorTable<'m> {
        &self.table
    }
}

/// What is done during a pass; answers whether the pass is wanted any more.
pub(crate) type Meanwhile<'a, 'm, C> = &'a mut dyn FnMut(&mut Vram<'m, C>) -> bool;

/// Makes some outputs of a hidden layer's rows from sums: by a GELU, or by a gate from what comes behind it in the row.
fn activate<'r>(
    compute: &dyn Compute,
    mlp: Mlp,
    rows: impl Iterator<Item = &'r mut [f32]>,
    outputs: Range<usize>,
) {
    for row in rows {
        let width = match mlp {
            Mlp::Gelu => row.len(),
            Mlp::SwiGlu => row.len() / 2,
        };
        let outputs = outputs.start.min(width)..outputs.end.min(width);
        let (hidden, behind) = row.split_at_mut(width);
        let hidden = hidden.get_mut(outputs.clone()).unwrap_or(&mut []);
        match mlp {
            Mlp::Gelu => compute.gelu(hidden),
            Mlp::SwiGlu => compute.swiglu(hidden, behind.get(outputs).unwrap_or(&[])),
        }
    }
}

/// Matrices of the same input, whose outputs lie one behind the other, in the order of the tape.
const QKV: [Role; 3] = [Role::Wq, Role::Wk, Role::Wv];
/// The same of an MLP with a gate.
const GATE_UP: [Role; 2] = [Role::Wgate, Role::W1];

/// The page behind the last that a pass without logits asks for: of the last layer's values.
pub(crate) fn prompts_end(shape: &Shape, table: &TensorTable<'_>) -> u32 {
    table.pages_of(Tensor::Layer(shape.n_layers.saturating_sub(1), Role::Wv)).end
}

/// Pages before these that it does not ask for: the last layer's queries.
fn last_queries(shape: &Shape, table: &TensorTable<'_>) -> Range<u32> {
    table.pages_of(Tensor::Layer(shape.n_layers.saturating_sub(1), Role::Wq))
}

/// The matrix that gives logits.
fn head_of(shape: &Shape) -> Tensor {
    if shape.tied_embeddings { Tensor::Embedding } else { Tensor::Head }
}

/// The matrix of `tensor` on the tape.
#[inline]
fn matrix_of(shape: &Shape, table: &TensorTable<'_>, tensor: Tensor) -> Result<MatrixPages, Error> {
    match shape.kind(tensor) {
        TensorKind::Matrix { dims, .. } => Ok(MatrixPages { tensor, dims, pages: table.pages_of(tensor) }),
        TensorKind::Vector { .. } => Err(Error::Tape { tensor, page: 0 }),
    }
}

/// A fault with the tensor that it is in.
pub(crate) fn locate(table: &TensorTable<'_>, fault: pageformer_vram::Fault) -> Error {
    let within = if fault.file == CardFile::Weights { table.locate(fault.page) } else { None };
    Error::Page(fault, within)
}

/// The angles of position `b` of a step: `head_dim / 2` cosines, then as many sines.
fn angles<'a>(rope: &'a [f32], shape: &Shape, b: usize) -> &'a [f32] {
    let width = shape.head_dim as usize;
    rope.get(b * width..(b + 1) * width).unwrap_or(&[])
}
