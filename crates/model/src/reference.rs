//! The forward pass in f32: what every other way to run a model is measured against.
//!
//! It is written to be read beside the papers, not to be fast. Sums are taken in f32 as well, as in any
//! framework.

use pageformer_card::{Mlp, Norm, Shape};

use crate::{Error, Matrix, Model, NormWeights, Scorer};

/// A model at work on one text: the KV cache and the buffers of a step.
#[derive(Clone, Debug)]
pub struct Reference<'a> {
    model: &'a Model,
    /// Number of tokens seen.
    position: usize,
    /// Per layer, all keys so far, already rotated.
    keys: Vec<Vec<f32>>, // (n_layers) × (position, n_kv_heads · head_dim)
    /// Per layer, all values so far.
    values: Vec<Vec<f32>>, // (n_layers) × (position, n_kv_heads · head_dim)
    x: Vec<f32>,      // (d_model), the residual stream
    normed: Vec<f32>, // (d_model)
    delta: Vec<f32>,  // (d_model), what a part adds to the residual stream
    q: Vec<f32>,      // (n_heads · head_dim)
    k: Vec<f32>,      // (n_kv_heads · head_dim)
    v: Vec<f32>,      // (n_kv_heads · head_dim)
    heads: Vec<f32>,  // (n_heads · head_dim), attention's output before Wo
    scores: Vec<f32>, // (position + 1), one head's attention
    hidden: Vec<f32>, // (d_ff)
    gate: Vec<f32>,   // (d_ff), SwiGLU only
    logits: Vec<f32>, // (vocab)
}

impl<'a> Reference<'a> {
    /// Begins a text.
    ///
    /// # Errors
    /// If the model does not pass [`Model::check`].
    pub fn new(model: &'a Model) -> Result<Self, Error> {
        model.check()?;
        let s = &model.shape;
        let zeros = |n: u32| vec![0.0; n as usize];
        Ok(Reference {
            model,
            position: 0,
            keys: vec![Vec::new(); model.layers.len()],
            values: vec![Vec::new(); model.layers.len()],
            x: zeros(s.d_model),
            normed: zeros(s.d_model),
            delta: zeros(s.d_model),
            q: zeros(s.q_dim()),
            k: zeros(s.kv_dim()),
            v: zeros(s.kv_dim()),
            heads: zeros(s.q_dim()),
            scores: Vec::new(),
            hidden: zeros(s.d_ff),
            gate: zeros(if s.mlp == Mlp::SwiGlu { s.d_ff } else { 0 }),
            logits: zeros(s.vocab),
        })
    }

    /// Forgets the text.
    pub fn reset(&mut self) {
        self.position = 0;
        self.keys.iter_mut().chain(&mut self.values).for_each(Vec::clear);
    }

    /// Number of tokens seen.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Takes the next token and gives the logits for the one after it: (vocab).
    ///
    /// # Errors
    /// If the token is not in the vocabulary or the model has no position left.
    pub fn step(&mut self, token: u32) -> Result<&[f32], Error> {
        let model = self.model;
        let s = &model.shape;
        if token >= s.vocab {
            return Err(Error::TokenOutOfRange { what: "the text".into(), id: token, vocab: s.vocab });
        }
        if self.position >= s.max_seq as usize {
            return Err(Error::ContextFull { max_seq: s.max_seq });
        }
        self.x.copy_from_slice(model.embedding.row(token as usize));

        for (l, layer) in model.layers.iter().enumerate() {
            normalize(&mut self.normed, &self.x, &layer.ln1, s);
            matmul(&mut self.q, &layer.wq, &self.normed);
            matmul(&mut self.k, &layer.wk, &self.normed);
            matmul(&mut self.v, &layer.wv, &self.normed);
            rotate(&mut self.q, self.position, s);
            rotate(&mut self.k, self.position, s);
            self.keys[l].extend_from_slice(&self.k);
            self.values[l].extend_from_slice(&self.v);
            self.attend(l);
            matmul(&mut self.delta, &layer.wo, &self.heads);
            add(&mut self.x, &self.delta);

            normalize(&mut self.normed, &self.x, &layer.ln2, s);
            matmul(&mut self.hidden, &layer.w1, &self.normed);
            match &layer.w_gate {
                Some(w_gate) => {
                    matmul(&mut self.gate, w_gate, &self.normed);
                    self.hidden.iter_mut().zip(&self.gate).for_each(|(h, g)| *h *= silu(*g));
                }
                None => self.hidden.iter_mut().for_each(|h| *h = gelu(*h)),
            }
            matmul(&mut self.delta, &layer.w2, &self.hidden);
            add(&mut self.x, &self.delta);
        }

        if let Some(norm) = &model.final_norm {
            normalize(&mut self.normed, &self.x, norm, s);
            self.x.copy_from_slice(&self.normed);
        }
        matmul(&mut self.logits, model.head(), &self.x);
        self.position += 1;
        Ok(&self.logits)
    }

    /// The logits after each of these tokens, as the continuation of the text so far: (tokens) × (vocab).
    ///
    /// # Errors
    /// See [`Reference::step`].
    pub fn logits_all(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, Error> {
        tokens.iter().map(|&token| self.step(token).map(<[f32]>::to_vec)).collect()
    }

    /// Causal attention of the newest position over all of layer `l`'s keys and values: `q` → `heads`.
    ///
    /// `heads[h] = Σ_t softmax_t(q[h] · k[t] / sqrt(head_dim)) v[t]`, where a KV head serves `n_heads /
    /// n_kv_heads` query heads.
    fn attend(&mut self, l: usize) {
        let s = &self.model.shape;
        let (head_dim, kv_dim) = (s.head_dim as usize, s.kv_dim() as usize);
        let queries_per_kv = (s.n_heads / s.n_kv_heads) as usize;
        let heads = self.q.chunks_exact(head_dim).zip(self.heads.chunks_exact_mut(head_dim));
        for (h, (q, out)) in heads.enumerate() {
            let at = h / queries_per_kv * head_dim;
            let channels = at..at + head_dim;
            let keys = self.keys[l].chunks_exact(kv_dim).map(|k| &k[channels.clone()]);
            self.scores.clear();
            self.scores.extend(keys.map(|k| dot(q, k) / (head_dim as f32).sqrt()));
            softmax(&mut self.scores);
            out.fill(0.0);
            let values = self.values[l].chunks_exact(kv_dim).map(|v| &v[channels.clone()]);
            for (weight, v) in self.scores.iter().zip(values) {
                out.iter_mut().zip(v).for_each(|(o, v)| *o += weight * v);
            }
        }
    }
}

impl Scorer for Reference<'_> {
    type Error = Error;

    fn score(&mut self, ids: &[u32]) -> Result<f64, Error> {
        self.reset();
        let mut nll = 0.0;
        for pair in ids.windows(2) {
            nll -= log_softmax(self.step(pair[0])?, pair[1]);
        }
        Ok(nll)
    }
}

/// `ln softmax(logits)[token]`. A token outside the vocabulary has the probability 0.
pub fn log_softmax(logits: &[f32], token: u32) -> f64 {
    let Some(&chosen) = logits.get(token as usize) else { return f64::NEG_INFINITY };
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    f64::from(chosen - max) - sum.ln()
}

/// The token of the greatest logit, the first of equals.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0..).zip(logits) {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.0
}

/// `y = W · x`
fn matmul(y: &mut [f32], w: &Matrix, x: &[f32]) {
    y.iter_mut().zip(w.data.chunks_exact(w.cols)).for_each(|(y, row)| *y = dot(row, x));
}

/// `Σ a·b`, in eight interleaved sums that a compiler can keep in one vector register.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

fn add(x: &mut [f32], delta: &[f32]) {
    x.iter_mut().zip(delta).for_each(|(x, d)| *x += d);
}

/// RMSNorm or LayerNorm of `x`.
fn normalize(out: &mut [f32], x: &[f32], weights: &NormWeights, shape: &Shape) {
    let n = x.len() as f32;
    let mean = match shape.norm {
        Norm::Rms => 0.0,
        Norm::Layer => x.iter().sum::<f32>() / n,
    };
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
    let scale = 1.0 / (variance + shape.norm_eps).sqrt();
    for ((out, x), gain) in out.iter_mut().zip(x).zip(&weights.gain) {
        *out = (x - mean) * scale * gain;
    }
    if let Some(bias) = &weights.bias {
        add(out, bias);
    }
}

/// RoPE: turns channels `i` and `i + head_dim / 2` of every head by `position · theta^(-2i / head_dim)`.
///
/// Angles are taken in f64, because an f32 angle loses what matters at large positions.
fn rotate(heads: &mut [f32], position: usize, shape: &Shape) {
    let head_dim = shape.head_dim as usize;
    let half = head_dim / 2;
    for i in 0..half {
        let frequency = f64::from(shape.rope_theta).powf(-2.0 * i as f64 / head_dim as f64);
        let (sin, cos) = (position as f64 * frequency).sin_cos();
        let (sin, cos) = (sin as f32, cos as f32);
        for head in heads.chunks_exact_mut(head_dim) {
            let (a, b) = (head[i], head[i + half]);
            head[i] = a * cos - b * sin;
            head[i + half] = a * sin + b * cos;
        }
    }
}

fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// GELU in its tanh approximation.
fn gelu(x: f32) -> f32 {
    let inner = std::f32::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}
