//! A small sound card, and ways to run one.

use std::sync::LazyLock;

use pageformer_card::writer::sum_pages;
use pageformer_card::{Layout, Mlp, Norm, PAGE_BYTES, Page, Shape, TensorTable};
use pageformer_engine::{Engine, Error, Needs, Plan, Request, Session, kernels};
use pageformer_model::{Merge, Model, Token, Tokenizer};
use pageformer_sim::MemoryCard;
use pageformer_vram::{Arena, read_manifest, read_tensors};

/// The prompt that cards are run with.
const PROMPT: &str = "ab cab";

/// A card of a model with every kind of tensor, pruned here and there, and a byte-level vocabulary.
pub fn card() -> &'static MemoryCard {
    static CARD: LazyLock<MemoryCard> = LazyLock::new(|| {
        let shape = Shape {
            n_layers: 1,
            d_model: 12,
            d_ff: 36,
            vocab: 261,
            max_seq: 16,
            n_heads: 3,
            n_kv_heads: 1,
            head_dim: 4,
            norm: Norm::Layer,
            norm_eps: 1e-5,
            mlp: Mlp::SwiGlu,
            rope_theta: 10_000.0,
            tied_embeddings: false,
            final_norm: true,
        };
        let mut model = Model::zeros(shape).expect("the shape is one");
        (model.bos, model.eos) = (Some(259), vec![260]);
        for (t, tensor) in model.tensors_mut().enumerate() {
            for (i, w) in tensor.data.iter_mut().enumerate() {
                // A third of the cells of 4 x 4 is zero, roughly.
                let kept = tensor.dims.len() == 1 || tensor.name.contains("embed") || (i / 4 + i / 48) % 3 > 0;
                *w = if kept { (1.7 * t as f32 + 0.37 * i as f32).sin() } else { 0.0 };
            }
        }
        let files = pageformer_toolchain::export(&model, &vocabulary(), Layout::Packed, (4, 4), "fuzz", "");
        let files = files.expect("the model fits a card").files;
        MemoryCard::from_files(files.iter().map(|file| (file.name.as_str(), file.bytes.as_slice())))
    });
    &CARD
}

/// 256 bytes, three merges and two control tokens.
fn vocabulary() -> Tokenizer {
    let mut tokens: Vec<Token> = (0..=255).map(|byte| Token::Text(vec![byte])).collect();
    let mut merges = Vec::new();
    for (text, left, right) in [("ab", 97, 98), (" c", 32, 99), (" cab", 257, 256)] {
        let merged = tokens.len() as u32;
        merges.push(Merge { left, right, merged, rank: merges.len() as u32 });
        tokens.push(Token::Text(text.into()));
    }
    tokens.extend(["<s>", "</s>"].map(|name| Token::Control(name.into())));
    Tokenizer::byte_level(tokens, merges).expect("the vocabulary is one")
}

/// Makes all checksums right.
pub fn reseal(card: &mut MemoryCard) {
    let pages = |bytes: &[u8]| -> Vec<Page> { bytes.as_chunks::<PAGE_BYTES>().0.to_vec() };
    card.sums = sum_pages(&pages(&card.weights), &pages(&card.tokenizer), &card.index).concat();
}

/// Says a few tokens in `ram` bytes: the text, and the digest of the logits that it comes from.
///
/// # Errors
/// The engine's.
pub fn run(mut card: MemoryCard, ram: usize) -> Result<(Vec<u8>, u64), Error> {
    let mut memory = vec![0x5A5A_5A5A_5A5A_5A5A; ram / 8];
    let mut arena = Arena::new(&mut memory);
    let mut page = [0; PAGE_BYTES];
    let manifest = read_manifest(&mut card, &mut page)?;
    let entries = arena.take(TensorTable::entries(&manifest.shape))?;
    let table = read_tensors(&mut card, &mut page, &manifest, entries)?;
    let plan = Plan::new(&Needs::new(&manifest, &table), ram / 8 * 8, &Request::default())?;
    let engine = Engine::start(card, &manifest, table, &plan, &mut arena, kernels::best())?;
    let mut session = Session::start(engine, &manifest, &mut arena)?;
    let mut text = Vec::new();
    session.keep_digest(true);
    session.reply(PROMPT, "", 2, &mut |bytes| {
        text.extend_from_slice(bytes);
        true
    })?;
    Ok((text, session.digest().unwrap_or_default().0))
}
