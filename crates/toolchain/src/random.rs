//! Models that nobody has trained: what they cost is what trained ones of their shape do.

use pageformer_model::{Error, Model, Token, Tokenizer};

/// Fills a model's matrices with uniform random weights of variance 4 ÷ 3 ÷ inputs, the same in every run. Vectors stay what they are.
pub fn fill_randomly(model: &mut Model) {
    let mut state = 1u64;
    for tensor in model.tensors_mut() {
        let [_, inputs] = tensor.dims[..] else { continue };
        let spread = 2.0 / (inputs as f32).sqrt();
        for weight in tensor.data.iter_mut() {
            // Knuth's MMIX generator.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *weight = spread * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0);
        }
    }
}

/// A vocabulary of the 256 bytes and of numbers.
///
/// # Errors
/// If `vocab` is less than 256.
pub fn numbered(vocab: u32) -> Result<Tokenizer, Error> {
    let bytes = (0..=255).map(Token::Byte);
    let texts = (256..vocab).map(|id| Token::Text(id.to_string().into_bytes()));
    Tokenizer::sentencepiece(bytes.chain(texts).collect(), Vec::new(), false)
}
