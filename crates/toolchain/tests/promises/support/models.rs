//! The models: a real one, and random ones of every kind.

use std::path::PathBuf;

use pageformer_card::{Layout, Mlp, Norm, Shape};
use pageformer_model::{Model, Tokenizer};
use pageformer_sim::MemoryCard;
use pageformer_toolchain::{CardFiles, export};

use super::byte_level;

/// A file of the shared test data; says so when it is not there.
pub fn data(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// The checkpoint `stories260K` and its tokenizer.
pub fn stories() -> Option<(Model, Tokenizer)> {
    let (model, tokenizer) = (data("stories260K.bin")?, data("tok512.bin")?);
    Some(pageformer_import::llama2c(&model, &tokenizer).unwrap())
}

/// Numbers of `stories260K` from an independent implementation in f64.
pub fn golden() -> Option<serde_json::Value> {
    Some(serde_json::from_slice(&std::fs::read(data("golden_stories260K.json")?).unwrap()).unwrap())
}

/// A model as a card.
pub fn card_files(model: &Model, tokenizer: &Tokenizer, layout: Layout) -> CardFiles {
    export(model, tokenizer, layout, (4, 4), "a test", "random numbers").unwrap()
}

/// A card in memory, which is always in layout `packed`.
pub fn in_memory(files: &CardFiles) -> MemoryCard {
    MemoryCard::from_files(files.files.iter().map(|f| (f.name.as_str(), f.bytes.as_slice())))
}

/// A model as a card in memory.
pub fn memory_card(model: &Model, tokenizer: &Tokenizer) -> MemoryCard {
    in_memory(&card_files(model, tokenizer, Layout::Packed))
}

/// Random numbers that are the same in every run: SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `n − 1`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Mean 0, variance 1, nearly normal: four uniform numbers.
    fn normal(&mut self) -> f32 {
        let sum: f64 = (0..4).map(|_| (self.bits() >> 11) as f64 / (1u64 << 53) as f64).sum();
        ((sum - 2.0) * 3f64.sqrt()) as f32
    }
}

/// A small shape of the given kind. Not one of its dimensions is a multiple of 8; `q_dim` is not even one of 4.
/// `norm_eps` is so large that it matters.
pub fn shape(norm: Norm, mlp: Mlp, [n_heads, n_kv_heads]: [u32; 2]) -> Shape {
    Shape {
        n_layers: 2,
        d_model: 20,
        d_ff: 172,
        vocab: 261,
        max_seq: 64,
        n_heads,
        n_kv_heads,
        head_dim: 6,
        norm,
        norm_eps: 0.25,
        mlp,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        final_norm: true,
    }
}

/// Both norms, both MLPs, MHA, GQA and MQA, tied or not, with a final norm or not: 48 kinds.
pub fn every_kind() -> Vec<Shape> {
    let mut all = Vec::new();
    for norm in [Norm::Rms, Norm::Layer] {
        for mlp in [Mlp::SwiGlu, Mlp::Gelu] {
            for heads in [[3, 3], [6, 2], [5, 1]] {
                for (tied_embeddings, final_norm) in
                    [(true, true), (true, false), (false, true), (false, false)]
                {
                    all.push(Shape { tied_embeddings, final_norm, ..shape(norm, mlp, heads) });
                }
            }
        }
    }
    all
}

/// Wide ones: rows of two and three tiles, an embedding row and a norm's bias that begin within a page.
pub fn wide() -> [Shape; 2] {
    let rms =
        Shape { n_layers: 1, d_model: 300, d_ff: 516, head_dim: 50, ..shape(Norm::Rms, Mlp::SwiGlu, [6, 2]) };
    [rms, Shape { norm: Norm::Layer, mlp: Mlp::Gelu, d_ff: 613, tied_embeddings: false, ..rms }]
}

/// A llama and one of the sketch's kind: as different as two models get.
pub fn two_kinds() -> [Shape; 2] {
    [
        Shape { tied_embeddings: false, ..shape(Norm::Rms, Mlp::SwiGlu, [6, 2]) },
        Shape { final_norm: false, ..shape(Norm::Layer, Mlp::Gelu, [5, 1]) },
    ]
}

/// What the original sketch ran: 2 layers of width 64, ASCII, one KV head.
pub fn sketch() -> Shape {
    Shape {
        d_model: 64,
        d_ff: 256,
        vocab: 128,
        head_dim: 16,
        final_norm: false,
        ..shape(Norm::Layer, Mlp::Gelu, [4, 1])
    }
}

/// A model of random weights that keep activations in a sane range.
pub fn random_model(shape: Shape, seed: u64) -> Model {
    let mut model = Model::zeros(shape).unwrap();
    let mut random = Random(seed);
    for tensor in model.tensors_mut() {
        let (mean, spread) = match (&tensor.dims[..], tensor.name.ends_with("bias")) {
            ([_, inputs], _) if !tensor.name.contains("embed") => (0.0, (*inputs as f32).sqrt().recip()),
            ([_, _], _) => (0.0, 1.0),
            (_, true) => (0.0, 0.1),
            (_, false) => (1.0, 0.1),
        };
        tensor.data.iter_mut().for_each(|w| *w = mean + spread * random.normal());
    }
    if shape.vocab > 256 {
        (model.bos, model.eos) = (Some(shape.vocab - 2), vec![shape.vocab - 1]);
    }
    model
}

/// A random model and a vocabulary for it.
pub fn random(shape: Shape, seed: u64) -> (Model, Tokenizer) {
    let tokenizer = match shape.vocab {
        128 => Tokenizer::ascii(),
        256 => Tokenizer::bytes(),
        vocab => byte_level(vocab, false),
    };
    (random_model(shape, seed), tokenizer)
}
