//! The presets.

use super::{
    DataKind, DataRecipe, MlpRecipe, ModelRecipe, NormRecipe, Recipe, TokenizerKind, TokenizerRecipe,
    TrainRecipe,
};

pub(super) fn stories() -> Recipe {
    Recipe {
        preset: None,
        model: ModelRecipe {
            n_layers: 5,
            d_model: 64,
            d_ff: 172,
            max_seq: 512,
            n_heads: 8,
            n_kv_heads: 4,
            head_dim: None,
            norm: NormRecipe::RmsNorm,
            mlp: MlpRecipe::SwiGlu,
            eps: 1e-5,
            rope_theta: 10_000.0,
            tied_embeddings: true,
            final_norm: true,
        },
        tokenizer: TokenizerRecipe { kind: TokenizerKind::Bpe, vocab: Some(512) },
        data: DataRecipe {
            files: vec![],
            kind: DataKind::Text,
            separator: "<|endoftext|>".into(),
            join: false,
            seq_len: None,
            hold_out: 0.05,
            user: "{}\n".into(),
            stop: "\n".into(),
        },
        train: TrainRecipe {
            steps: 4000,
            batch_tokens: 4096,
            lr: 4e-3,
            final_lr: 4e-4,
            warmup: 100,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            clip: 1.0,
            dropout: 0.0,
            holes: 0.0,
            seed: 1,
            threads: 2,
            int8: false,
            validate_every: 250,
            checkpoint_every: 250,
        },
        prune: None,
        distill: None,
    }
}

/// The shape that answered best on a card of half a megabyte: two wide layers, and a vocabulary in which most words are one token.
pub(super) fn chat() -> Recipe {
    let base = stories();
    Recipe {
        model: ModelRecipe {
            n_layers: 2,
            d_model: 128,
            d_ff: 640,
            max_seq: 192,
            n_heads: 8,
            n_kv_heads: 1,
            ..base.model
        },
        tokenizer: TokenizerRecipe { vocab: Some(1536), ..base.tokenizer },
        // The blank makes a message's first word the same token as that word elsewhere. Joined, chats reach all positions.
        data: DataRecipe {
            kind: DataKind::Chat,
            separator: String::new(),
            join: true,
            user: " {}\n".into(),
            ..base.data
        },
        train: TrainRecipe { steps: 2000, batch_tokens: 2048, holes: 0.07, ..base.train },
        ..base
    }
}

/// The shape of the Arduino sketch that this project grew from.
pub(super) fn sketch() -> Recipe {
    let base = stories();
    Recipe {
        model: ModelRecipe {
            n_layers: 2,
            d_model: 64,
            d_ff: 256,
            max_seq: 64,
            n_heads: 4,
            n_kv_heads: 1,
            norm: NormRecipe::LayerNorm,
            mlp: MlpRecipe::Gelu,
            final_norm: false,
            ..base.model
        },
        tokenizer: TokenizerRecipe { kind: TokenizerKind::Ascii, vocab: None },
        data: DataRecipe { separator: String::new(), join: true, ..base.data },
        train: TrainRecipe { steps: 3000, ..base.train },
        ..base
    }
}
