//! `tokenizer.bin`, any bytes or changes to a sound one, with right checksums: text becomes tokens of the vocabulary, and
//! tokens become text, or there is an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pageformer_card::sums::SumLayout;
use pageformer_card::PAGE_BYTES;
use pageformer_engine::{Error, Tokenizer};
use pageformer_fuzz::{apply, card, read, reseal};
use pageformer_sim::MemoryCard;
use pageformer_vram::{Frames, Pinning, Vram};

fn run(card: MemoryCard, vocab: u32, text: &str) -> Result<(), Error> {
    let layout = SumLayout { weights_pages: 1, tokenizer_pages: (card.tokenizer.len() / PAGE_BYTES) as u32 };
    let pinning = Pinning { tape: 1, pinned: 1, ..Pinning::default() };
    let page = || vec![[0; PAGE_BYTES]];
    let frames = Frames {
        pinned: &mut page(),
        ring: &mut [],
        side: &mut page(),
        side_tags: &mut [0],
        sums: &mut page(),
        meta: &mut [],
    };
    let mut vram = Vram::start(card, layout, pinning, frames).map_err(|fault| Error::Page(fault, None))?;
    let tokenizer = Tokenizer::open(&mut vram, layout.tokenizer_pages, vocab)?;
    let mut scratch = [0.0; 64];
    let mut first = None;
    let encoded = tokenizer.encode(&mut vram, text, &mut scratch, &mut |token| {
        assert!(u32::from(token) < vocab, "token {token} of {vocab}");
        first.get_or_insert(token);
        Ok(())
    });
    // No token is longer than the text of all of them.
    let most = layout.tokenizer_pages as usize * PAGE_BYTES;
    for token in [0, vocab as u16 / 2, (vocab - 1) as u16].into_iter().chain(first) {
        let mut bytes = 0;
        if tokenizer.decode(&mut vram, token, &mut |part| bytes += part.len()).is_ok() {
            assert!(bytes <= most.max(1), "{bytes} bytes");
        }
    }
    encoded
}

fuzz_target!(|input: &[u8]| {
    let Some(([flags, len], rest)) = input.split_first_chunk::<2>() else { return };
    let (text, rest) = rest.split_at((*len as usize).min(rest.len()));
    let mut tokenizer = card().tokenizer.clone();
    let mut vocab = 261;
    if flags & 1 == 0 {
        read(rest).iter().for_each(|patch| apply(patch, &mut tokenizer));
    } else {
        tokenizer = rest.to_vec();
        // As many tokens as the header says: the manifest of a lying exporter says so, too.
        vocab = rest.get(12..14).map_or(128, |v| u32::from(u16::from_le_bytes([v[0], v[1]]))).max(1);
    }
    tokenizer.resize(tokenizer.len().next_multiple_of(PAGE_BYTES).max(PAGE_BYTES), 0);
    let mut card = MemoryCard { weights: vec![0; PAGE_BYTES], tokenizer, ..MemoryCard::default() };
    reseal(&mut card);
    if let Err(error) = run(card, vocab, &String::from_utf8_lossy(text)) {
        assert!(!error.to_string().is_empty());
    }
});
