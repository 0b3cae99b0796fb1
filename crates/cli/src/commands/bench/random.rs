//! Models of random weights, to measure shapes that nobody has trained.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use pageformer_card::{Layout, Mlp, Norm, Shape};
use pageformer_model::{Model, Token, Tokenizer};
use pageformer_sim::MemoryCard;
use pageformer_toolchain::{export, prune_by_magnitude};

/// The dimensions of a Llama.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dimensions {
    pub d_model: u32,
    pub d_ff: u32,
    pub layers: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub vocab: u32,
}

impl FromStr for Dimensions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<u32>, _> = text.split(',').map(|n| n.trim().parse()).collect();
        let Ok(&[d_model, d_ff, layers, heads, kv_heads, vocab]) = numbers.as_deref() else {
            return Err(
                "six numbers are needed: width, MLP width, layers, heads, KV heads, vocabulary".into()
            );
        };
        if heads == 0 || d_model % heads != 0 || d_model / heads % 2 != 0 {
            return Err(format!("{heads} heads do not share a width of {d_model} in even parts"));
        }
        if vocab < 256 {
            return Err(format!("a vocabulary of {vocab} is not possible: 256 or more"));
        }
        let dimensions = Self { d_model, d_ff, layers, heads, kv_heads, vocab };
        match dimensions.shape(true).check() {
            Ok(()) => Ok(dimensions),
            Err(error) => Err(format!(
                "{error}; the numbers are width, MLP width, layers, heads, KV heads, vocabulary, such as 288,768,6,6,6,32000"
            )),
        }
    }
}

impl Dimensions {
    /// The shape of a Llama that has these, whose head may be the embedding.
    fn shape(self, tied_embeddings: bool) -> Shape {
        let Self { d_model, d_ff, layers, heads, kv_heads, vocab } = self;
        Shape {
            n_layers: layers,
            d_model,
            d_ff,
            vocab,
            max_seq: POSITIONS,
            n_heads: heads,
            n_kv_heads: kv_heads,
            head_dim: d_model / heads,
            norm: Norm::Rms,
            norm_eps: 1e-5,
            mlp: Mlp::SwiGlu,
            rope_theta: 10_000.0,
            tied_embeddings,
            final_norm: true,
        }
    }
}

impl fmt::Display for Dimensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { d_model, d_ff, layers, heads, kv_heads, vocab } = self;
        write!(f, "random {d_model},{d_ff},{layers},{heads},{kv_heads},{vocab}")
    }
}

/// Positions of a random model.
const POSITIONS: u32 = 1024;

/// A card of random weights in memory. If some of the cells are pruned, the head is one of its own, so that every matrix that a pass
/// reads is of that density: an embedding is never pruned.
pub fn card(dimensions: Dimensions, density: f64) -> Result<MemoryCard> {
    let Dimensions { d_model, vocab, .. } = dimensions;
    ensure!(density > 0.0 && density <= 1.0, "a density of {density} is not possible: above 0, at most 1");
    let mut model = Model::zeros(dimensions.shape(density == 1.0)).context("these dimensions")?;
    let mut state = 1u64;
    let mut all = 0;
    for tensor in model.tensors_mut() {
        let spread = match tensor.dims[..] {
            [_, inputs] => (3.0 / inputs as f32).sqrt(),
            _ => 0.0,
        };
        if tensor.dims.len() == 2 {
            all += tensor.data.len();
        }
        for weight in tensor.data.iter_mut() {
            // Knuth's MMIX generator; uniform, of variance 1 ÷ inputs. Gains are 1.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *weight = match spread {
                0.0 => 1.0,
                spread => spread * ((state >> 40) as f32 / 8_388_608.0 - 1.0),
            };
        }
    }
    if density < 1.0 {
        let embedding = (vocab * d_model) as f64;
        let kept = embedding + density * (all as f64 - embedding);
        prune_by_magnitude(&mut model, kept / all as f64, (4, 4))?;
    }
    let bytes = (0..=255).map(Token::Byte);
    let texts = (256..vocab).map(|id| Token::Text(format!("{id}").into_bytes()));
    let tokenizer = Tokenizer::sentencepiece(bytes.chain(texts).collect(), Vec::new(), false)?;
    let files = export(&model, &tokenizer, Layout::Packed, (4, 4), "bench", "random numbers")?;
    Ok(MemoryCard::from_files(files.files.iter().map(|f| (f.name.as_str(), f.bytes.as_slice()))))
}
