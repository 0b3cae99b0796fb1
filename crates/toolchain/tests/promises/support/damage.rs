//! Cards that are not what they were.

use pageformer_card::writer::sum_pages;
use pageformer_card::{PAGE_BYTES, Page};
use pageformer_sim::MemoryCard;
use pageformer_vram::CardFile;

/// The files that an answer hangs on.
pub const FILES: [CardFile; 4] = [CardFile::Index, CardFile::Weights, CardFile::Sums, CardFile::Tokenizer];

/// The bytes of a file of a card.
pub fn file(card: &mut MemoryCard, file: CardFile) -> &mut Vec<u8> {
    match file {
        CardFile::Index => &mut card.index,
        CardFile::Weights => &mut card.weights,
        CardFile::Sums => &mut card.sums,
        CardFile::Tokenizer => &mut card.tokenizer,
        CardFile::Meta => &mut card.meta,
        CardFile::Drafts => &mut card.drafts,
    }
}

/// Flips a bit.
pub fn flip(card: &mut MemoryCard, of: CardFile, bit: usize) {
    file(card, of)[bit / 8] ^= 1 << (bit % 8);
}

/// Makes all checksums right: what an exporter does that has written something wrong.
pub fn reseal(card: &mut MemoryCard) {
    let pages = |bytes: &[u8]| -> Vec<Page> { bytes.as_chunks::<PAGE_BYTES>().0.to_vec() };
    card.sums = sum_pages(&pages(&card.weights), &pages(&card.tokenizer), &card.index).concat();
}
