//! The tables of a recipe, and what follows from their numbers.

use std::path::PathBuf;

use pageformer_card::{Mlp, Norm, Shape};
use pageformer_model::ChatTemplate;
use serde::{Deserialize, Serialize};

use crate::data::{HoldOut, Packing};
use crate::prune::{Method, Scope};
use crate::{AdamW, Distillation};

/// The shape of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// Layers.
    pub n_layers: u32,
    /// Width.
    pub d_model: u32,
    /// Width of the MLP.
    pub d_ff: u32,
    /// Positions.
    pub max_seq: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key/value heads.
    pub n_kv_heads: u32,
    /// Channels of a head; `d_model / n_heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<u32>,
    /// Kind of norm.
    pub norm: NormRecipe,
    /// Kind of MLP.
    pub mlp: MlpRecipe,
    /// Added under the norm's root.
    pub eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Whether the head is the embedding.
    pub tied_embeddings: bool,
    /// Whether a norm stands before the head.
    pub final_norm: bool,
}

/// Kind of norm; see [`Norm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormRecipe {
    /// [`Norm::Rms`].
    RmsNorm,
    /// [`Norm::Layer`].
    LayerNorm,
}

/// Kind of MLP; see [`Mlp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MlpRecipe {
    /// [`Mlp::Gelu`].
    Gelu,
    /// [`Mlp::SwiGlu`].
    SwiGlu,
}

/// The tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerRecipe {
    /// Its kind.
    pub kind: TokenizerKind,
    /// Size of a trained vocabulary; the other kinds have theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab: Option<usize>,
}

/// Kind of tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// 128 tokens.
    Ascii,
    /// 256 tokens.
    Bytes,
    /// Trained on the data.
    Bpe,
}

/// What is trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// The files; relative paths are relative to the recipe.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// What they hold.
    pub kind: DataKind,
    /// Between documents of text.
    pub separator: String,
    /// Documents: whether they are joined and cut into sequences of full length, or each cut on its own. Chats: whether they are trained
    /// on several at a time, too, as in a long conversation.
    pub join: bool,
    /// Tokens of a sequence; the model's positions when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq_len: Option<usize>,
    /// Number of documents (1 or more: the last ones) or part of them (below 1, evenly spread) that are not trained on.
    pub hold_out: f64,
    /// Chat template: what stands before a reply, `{}` for the user's message.
    pub user: String,
    /// Chat template: what ends a reply.
    pub stop: String,
}

/// What data files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataKind {
    /// Documents.
    Text,
    /// Questions and answers.
    Chat,
}

/// How the model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainRecipe {
    /// Steps of the optimizer.
    pub steps: usize,
    /// Tokens of a step, at least (whole sequences are taken until there are as many).
    pub batch_tokens: usize,
    /// Largest learning rate.
    pub lr: f32,
    /// Learning rate of the last step.
    pub final_lr: f32,
    /// Steps until the learning rate is the largest.
    pub warmup: usize,
    /// See [`AdamW`].
    pub weight_decay: f32,
    /// See [`AdamW`].
    pub beta1: f32,
    /// See [`AdamW`].
    pub beta2: f32,
    /// Largest norm of the gradient; larger ones are scaled down to it. 0 for none.
    pub clip: f32,
    /// Part of the values that are dropped from the embedding and from what each attention and MLP adds.
    pub dropout: f32,
    /// Part of the tokens that do not count, such as those of questions, that is left out, others each time: the model learns not to
    /// hang on single words.
    #[serde(default)]
    pub holes: f32,
    /// Seed of everything random.
    pub seed: u64,
    /// Threads; the result does not depend on it.
    pub threads: usize,
    /// Whether the forward pass simulates the engine's int8 arithmetic.
    pub int8: bool,
    /// Steps between measurements of the held-out loss; 0 for only one at the end.
    pub validate_every: usize,
    /// Steps between checkpoints; 0 for only one at the end.
    pub checkpoint_every: usize,
}

/// Pruning during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneRecipe {
    /// Part of the cells of all matrices, the embedding included, that stays. The embedding is never pruned.
    pub density: f64,
    /// Rows and columns of a block that is kept or pruned as a whole: multiples of 4.
    #[serde(default = "four_by_four")]
    pub block: [usize; 2],
    /// What makes a block worth keeping.
    #[serde(default)]
    pub method: Method,
    /// Whether blocks compete with all others or with those of their matrix.
    #[serde(default)]
    pub scope: Scope,
    /// Part of the run at which pruning begins.
    #[serde(default)]
    pub begin: f64,
    /// Part of the run at which the density is reached and the blocks are final.
    #[serde(default = "default_end")]
    pub end: f64,
    /// Steps between choices.
    #[serde(default = "default_every")]
    pub every: usize,
    /// Whether pruned weights keep learning until the blocks are final (as if they were there), so that blocks can come back.
    #[serde(default = "yes")]
    pub regrow: bool,
}

fn four_by_four() -> [usize; 2] {
    [4, 4]
}

fn yes() -> bool {
    true
}

fn default_end() -> f64 {
    0.6
}

fn default_every() -> usize {
    10
}

/// Learning from another model's predictions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillRecipe {
    /// See [`Distillation`].
    pub weight: f32,
    /// See [`Distillation`].
    pub temperature: f32,
}

impl ModelRecipe {
    /// The table of a shape.
    pub fn of(shape: &Shape) -> Self {
        ModelRecipe {
            n_layers: shape.n_layers,
            d_model: shape.d_model,
            d_ff: shape.d_ff,
            max_seq: shape.max_seq,
            n_heads: shape.n_heads,
            n_kv_heads: shape.n_kv_heads,
            head_dim: Some(shape.head_dim),
            norm: match shape.norm {
                Norm::Rms => NormRecipe::RmsNorm,
                Norm::Layer => NormRecipe::LayerNorm,
            },
            mlp: match shape.mlp {
                Mlp::Gelu => MlpRecipe::Gelu,
                Mlp::SwiGlu => MlpRecipe::SwiGlu,
            },
            eps: shape.norm_eps,
            rope_theta: shape.rope_theta,
            tied_embeddings: shape.tied_embeddings,
            final_norm: shape.final_norm,
        }
    }

    /// The shape with a vocabulary of `vocab` tokens; not checked.
    pub(super) fn shape(&self, vocab: u32) -> Shape {
        Shape {
            n_layers: self.n_layers,
            d_model: self.d_model,
            d_ff: self.d_ff,
            vocab,
            max_seq: self.max_seq,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim.unwrap_or(self.d_model / self.n_heads.max(1)),
            norm: match self.norm {
                NormRecipe::RmsNorm => Norm::Rms,
                NormRecipe::LayerNorm => Norm::Layer,
            },
            norm_eps: self.eps,
            mlp: match self.mlp {
                MlpRecipe::Gelu => Mlp::Gelu,
                MlpRecipe::SwiGlu => Mlp::SwiGlu,
            },
            rope_theta: self.rope_theta,
            tied_embeddings: self.tied_embeddings,
            final_norm: self.final_norm,
        }
    }
}

impl DataRecipe {
    /// What is held out.
    pub fn hold_out(&self) -> HoldOut {
        match self.hold_out < 1.0 {
            true => HoldOut::Fraction(self.hold_out),
            false => HoldOut::Last(self.hold_out as usize),
        }
    }

    /// How documents become sequences.
    pub fn packing(&self) -> Packing {
        if self.join { Packing::Join } else { Packing::Cut }
    }

    /// The chat template, of chats.
    pub fn chat(&self) -> Option<ChatTemplate> {
        let template = || ChatTemplate { user: self.user.clone(), stop: self.stop.clone() };
        (self.kind == DataKind::Chat).then(template)
    }
}

impl TrainRecipe {
    /// The optimizer.
    pub fn adamw(&self) -> AdamW {
        AdamW { beta1: self.beta1, beta2: self.beta2, epsilon: 1e-8, weight_decay: self.weight_decay }
    }

    /// Learning rate of a step, from 0: a linear warm-up, then half a cosine down to the last.
    pub fn learning_rate(&self, step: usize) -> f32 {
        if step < self.warmup {
            return self.lr * (step + 1) as f32 / self.warmup as f32;
        }
        let part = (step - self.warmup) as f64 / (self.steps.saturating_sub(self.warmup + 1)).max(1) as f64;
        let cosine = 0.5 + 0.5 * libm::cos(std::f64::consts::PI * part.min(1.0));
        self.final_lr + (self.lr - self.final_lr) * cosine as f32
    }
}

impl PruneRecipe {
    /// Density at a step of a run of `steps`, and whether the blocks are final: 1 until `begin`, then the cubic curve of Zhu & Gupta (2017).
    pub fn schedule(&self, step: usize, steps: usize) -> (f64, bool) {
        let (begin, end) = (self.begin * steps as f64, self.end * steps as f64);
        if step as f64 >= end {
            return (self.density, true);
        }
        let left = 1.0 - (step as f64 - begin).max(0.0) / (end - begin);
        (self.density + (1.0 - self.density) * left.powi(3), false)
    }
}

impl From<&DistillRecipe> for Distillation {
    fn from(recipe: &DistillRecipe) -> Self {
        Distillation { weight: recipe.weight, temperature: recipe.temperature }
    }
}
