//! The shape of a model: every number that fixes the size of a tensor, and every choice that changes
//! what a forward pass computes.

/// Largest number of layers a card may hold.
pub const MAX_LAYERS: u32 = 256;
/// Largest width (`d_model`, `d_ff`, heads × `head_dim`) a card may hold.
pub const MAX_WIDTH: u32 = 1 << 16;
/// Largest vocabulary: token ids are `u16`.
pub const MAX_VOCAB: u32 = 1 << 16;
/// Largest number of positions.
pub const MAX_POSITIONS: u32 = 1 << 16;

/// Normalization before attention and before the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// `x / sqrt(mean(x²) + eps) · gain` (Zhang & Sennrich 2019). A gain per channel.
    Rms,
    /// `(x − mean) / sqrt(var + eps) · gain + bias` (Ba et al. 2016). A gain and a bias per channel.
    Layer,
}

/// The feed-forward part of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mlp {
    /// `W2 · gelu(W1 · x)`, with the tanh approximation of GELU (Hendrycks & Gimpel 2016).
    Gelu,
    /// `W2 · (silu(Wgate · x) ⊙ (W1 · x))` (Shazeer 2020).
    SwiGlu,
}

/// The shape of a decoder-only Transformer. `n_kv_heads = 1` is MQA, `= n_heads` is MHA, in between GQA.
///
/// Positions are rotary (RoPE, Su et al. 2021) with base `rope_theta`; channel `i` of a head is rotated with
/// channel `i + head_dim / 2`, the order of Hugging Face's Llama tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Number of layers.
    pub n_layers: u32,
    /// Width of the residual stream.
    pub d_model: u32,
    /// Width of the MLP's hidden layer.
    pub d_ff: u32,
    /// Number of tokens in the vocabulary.
    pub vocab: u32,
    /// Largest number of positions the model was trained for.
    pub max_seq: u32,
    /// Number of query heads.
    pub n_heads: u32,
    /// Number of key/value heads; divides `n_heads`.
    pub n_kv_heads: u32,
    /// Channels of a head; even.
    pub head_dim: u32,
    /// Kind of normalization.
    pub norm: Norm,
    /// Added to the variance (or the mean square) before the root.
    pub norm_eps: f32,
    /// Kind of MLP.
    pub mlp: Mlp,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Whether the head is the embedding matrix.
    pub tied_embeddings: bool,
    /// Whether a norm stands between the last layer and the head.
    pub final_norm: bool,
}

/// Why a shape is not one: the key of `index.json` and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShapeError {
    /// The key.
    pub key: &'static str,
    /// What its value must satisfy.
    pub must: &'static str,
}

impl core::fmt::Display for ShapeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "`{}` must be {}", self.key, self.must)
    }
}

impl core::error::Error for ShapeError {}

impl Shape {
    /// Output width of Wq and input width of Wo: `n_heads · head_dim`.
    pub fn q_dim(&self) -> u32 {
        self.n_heads * self.head_dim
    }

    /// Output width of Wk and Wv: `n_kv_heads · head_dim`.
    pub fn kv_dim(&self) -> u32 {
        self.n_kv_heads * self.head_dim
    }

    /// Number of matrix parameters in the layers and of the embedding and head.
    pub fn parameters(&self) -> u64 {
        let (d, q, kv, ff) =
            (self.d_model as u64, self.q_dim() as u64, self.kv_dim() as u64, self.d_ff as u64);
        let mlp = match self.mlp {
            Mlp::Gelu => 2,
            Mlp::SwiGlu => 3,
        };
        let heads = if self.tied_embeddings { 1 } else { 2 };
        self.n_layers as u64 * (2 * d * q + 2 * d * kv + mlp * d * ff) + heads * self.vocab as u64 * d
    }

    /// Checks every bound and every relation between the numbers.
    ///
    /// # Errors
    /// Names the first key whose value cannot be.
    pub fn check(&self) -> Result<(), ShapeError> {
        let fail = |key, must| Err(ShapeError { key, must });
        let within = |v: u32, max: u32| v >= 1 && v <= max;
        if !within(self.n_layers, MAX_LAYERS) {
            return fail("n_layers", "1 to 256");
        }
        if !within(self.d_model, MAX_WIDTH) {
            return fail("d_model", "1 to 65536");
        }
        if !within(self.d_ff, MAX_WIDTH) {
            return fail("d_ff", "1 to 65536");
        }
        if !within(self.vocab, MAX_VOCAB) {
            return fail("vocab", "1 to 65536");
        }
        if !within(self.max_seq, MAX_POSITIONS) {
            return fail("max_seq", "1 to 65536");
        }
        if !within(self.n_heads, 1024) {
            return fail("n_heads", "1 to 1024");
        }
        if !within(self.n_kv_heads, self.n_heads) || !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return fail("n_kv_heads", "a divisor of `n_heads`");
        }
        if !within(self.head_dim, 1024) || !self.head_dim.is_multiple_of(2) {
            return fail("head_dim", "even, 2 to 1024");
        }
        if self.q_dim() > MAX_WIDTH {
            return fail("head_dim", "such that `n_heads` x `head_dim` is at most 65536");
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return fail("eps", "a finite number, 0 or more");
        }
        if !(self.rope_theta.is_finite() && self.rope_theta >= 1.0) {
            return fail("theta", "a finite number, 1 or more");
        }
        Ok(())
    }
}
